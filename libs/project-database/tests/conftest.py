"""A real PostgreSQL (its address comes from `./stack test`), and a database of the session's own."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from project_database.sessions import Database, open_database
from project_database.tables import Base


def url(database: str) -> str:
    user, password = os.environ["POSTGRES_USER"], os.environ["POSTGRES_PASSWORD"]
    address = f"{os.environ['POSTGRES_HOST']}:{os.environ['POSTGRES_PORT']}"
    return f"postgresql://{user}:{password}@{address}/{database}"


async def _execute(statement: str) -> None:
    connection = await asyncpg.connect(url(os.environ["POSTGRES_DB"]))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _create_all(address: str) -> None:
    async with (
        open_database(address, application_name="tests", timeout=5) as database,
        database.engine.begin() as connection,
    ):
        await connection.run_sync(Base.metadata.create_all)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The URL of a database with all tables."""
    if "POSTGRES_PORT" not in os.environ:
        pytest.exit("these tests need a real PostgreSQL: run `./stack test database`", returncode=4)
    name = f"tests_{secrets.token_hex(6)}"
    asyncio.run(_execute(f"CREATE DATABASE {name}"))
    try:
        asyncio.run(_create_all(url(name)))
        yield url(name)
    finally:
        asyncio.run(_execute(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def database(address: str) -> AsyncIterator[Database]:
    """Empty tables, and short time-outs: locks 0.3 s, statements 0.6 s, two connections."""
    async with open_database(
        address,
        application_name="tests",
        timeout=2,
        pool_size=2,
        pool_timeout=0.2,
        lock_timeout=0.3,
        statement_timeout=0.6,
    ) as opened:
        async with opened.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                await connection.execute(table.delete())
        yield opened
