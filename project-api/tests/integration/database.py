"""A PostgreSQL database of the test session's own, migrated, and what tests do to it behind the API's back.

How it works: `own_database` makes one with a random name on the server of the POSTGRES_* variables and puts its
name into POSTGRES_DB, so whatever is started afterwards works on it: API, Alembic, this process. Statements of a
test run on connections of its own, each committed at once. API processes commit as well: rows are not rolled back
after a test but deleted before one (`clean_tables`).

What belongs here: making, migrating, emptying, asking.
"""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from pydantic_settings import BaseSettings

from project_contracts.connections import DatabaseConnection
from project_database.tables import Base

ALEMBIC_INI = Path(__file__).parents[2] / "alembic.ini"


class _Settings(DatabaseConnection, BaseSettings):
    """Addresses from the environment."""


def url(**settings: str) -> str:
    """Return the URL of the session's own database; `settings` (`POSTGRES_DB`, …) lead to another one."""
    return _Settings.model_validate({name.lower(): value for name, value in settings.items()}).database


@asynccontextmanager
async def connected(**settings: str) -> AsyncIterator[Any]:
    """A connection that is not the API's."""
    connection = await asyncpg.connect(url(**settings), server_settings={"application_name": "tests"})
    try:
        yield connection
    finally:
        await connection.close()


async def fetch(statement: str, *arguments: object, **settings: str) -> list[Any]:
    """Run a statement, return its rows."""
    async with connected(**settings) as connection:
        rows: list[Any] = await connection.fetch(statement, *arguments)
        return rows


def run(statement: str, *arguments: object, **settings: str) -> list[Any]:
    """Do what `fetch` does, in a test that is not `async`."""
    return asyncio.run(fetch(statement, *arguments, **settings))


def alembic(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run Alembic as `./stack up` does."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(ALEMBIC_INI), *arguments],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def empty_database() -> Iterator[str]:
    """Make a database without a schema; it and whoever is connected to it are gone at the end."""
    name = f"tests_{secrets.token_hex(6)}"
    server = os.environ["POSTGRES_DB"]
    run(f"CREATE DATABASE {name}", POSTGRES_DB=server)
    try:
        yield name
    finally:
        run(f"DROP DATABASE {name} WITH (FORCE)", POSTGRES_DB=server)


@contextmanager
def own_database() -> Iterator[str]:
    """Make a migrated database, and let POSTGRES_DB name it."""
    with empty_database() as name:
        before = os.environ["POSTGRES_DB"]
        os.environ["POSTGRES_DB"] = name
        try:
            migrated = alembic("upgrade", "head")
            assert migrated.returncode == 0, migrated.stderr
            yield name
        finally:
            os.environ["POSTGRES_DB"] = before


@contextmanager
def noted_messages() -> Iterator[None]:
    """Have each message of the outbox written down in `committed`, in its transaction; the relay deletes it."""
    run("CREATE TABLE committed (id uuid PRIMARY KEY, country_code text)")
    run(
        "CREATE FUNCTION note_committed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO committed VALUES (NEW.id, NEW.kwargs ->> 'country_code'); RETURN NULL; END $$"
    )
    run("CREATE TRIGGER note_committed AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION note_committed()")
    try:
        yield
    finally:
        run("DROP FUNCTION note_committed() CASCADE")
        run("DROP TABLE committed")


def empty_tables() -> None:
    """Delete all rows of all tables."""
    asyncio.run(_empty_tables())


async def _empty_tables() -> None:
    async with connected() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            # Not TRUNCATE: it makes new files, which takes a hundred times longer than deleting a few rows.
            await connection.execute(str(table.delete()))
