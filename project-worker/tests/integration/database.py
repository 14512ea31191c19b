"""A PostgreSQL database of the test session's own, and what tests do to it behind the worker's back.

How it works: `own_database` makes one with a random name on the server of the POSTGRES_* variables and puts its
name into POSTGRES_DB, so every worker that is started afterwards works on it. Its tables are made by
`create_all`: that migrations make the same is tested where they live, in the API. Each statement of a test is
committed at once; workers commit as well, so a test that counts rows empties the tables first.

What belongs here: making, emptying, asking.
"""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]  # it has no py.typed
from pydantic_settings import BaseSettings

from project_contracts.connections import DatabaseConnection
from project_database.sessions import Database, open_database
from project_database.tables import Base

T = TypeVar("T")


class _Settings(DatabaseConnection, BaseSettings):
    """Addresses from the environment."""


def url() -> str:
    """Return the URL of the database that POSTGRES_DB names."""
    return _Settings.model_validate({}).database


def run(statement: str, *arguments: object) -> list[Any]:
    """Run a statement, return its rows."""

    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(url(), server_settings={"application_name": "tests"})
        try:
            rows: list[Any] = await connection.fetch(statement, *arguments)
            return rows
        finally:
            await connection.close()

    return asyncio.run(fetch())


def work(steps: Callable[[Database], Awaitable[T]]) -> T:
    """Do something with the database as a worker sees it, on an event loop of its own."""

    async def with_database() -> T:
        async with open_database(url(), application_name="tests", timeout=5) as database:
            return await steps(database)

    return asyncio.run(with_database())


@contextmanager
def holding(lock: str) -> Iterator[None]:
    """Have a transaction open that has run the statement `lock`, until the block ends."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url(), server_settings={"application_name": "tests"}))
        try:
            runner.run(connection.execute(f"BEGIN; {lock}"))
            yield
        finally:
            runner.run(connection.close())


def waiting() -> int:
    """Return how many connections wait for a lock."""
    (row,) = run(
        "SELECT count(*) AS n FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    count: int = row["n"]
    return count


@contextmanager
def own_database() -> Iterator[str]:
    """Make a database with all tables, and let POSTGRES_DB name it; it and whoever is connected go at the end."""

    async def create_all(database: Database) -> None:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    server, name = os.environ["POSTGRES_DB"], f"tests_{secrets.token_hex(6)}"
    run(f"CREATE DATABASE {name}")
    os.environ["POSTGRES_DB"] = name
    try:
        work(create_all)
        yield name
    finally:
        os.environ["POSTGRES_DB"] = server
        run(f"DROP DATABASE {name} WITH (FORCE)")


def empty_tables() -> None:
    """Delete all rows of all tables."""
    run(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY CASCADE")
