"""Migrations: there and back, the same schema as the tables say, one process at a time."""

import asyncio
import re
from collections.abc import Iterator

import database
import pytest

from project_database.sessions import open_database
from project_database.tables import Base

# What a schema is made of, by name; the order of columns does not count.
SCHEMA = """
    SELECT 'column' AS kind, table_name || '.' || column_name AS name,
           concat_ws(' ', data_type, udt_name, character_maximum_length, is_nullable, column_default,
                     generation_expression, identity_generation) AS definition
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL
    SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
    FROM pg_proc p WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'
        AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
    UNION ALL
    SELECT 'extension', extname, nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE extname <> 'plpgsql'
"""


@pytest.fixture
def empty() -> Iterator[dict[str, str]]:
    """An empty database, as settings."""
    with database.empty_database() as name:
        yield {"POSTGRES_DB": name}


async def schema(**settings: str) -> dict[tuple[str, str], str]:
    rows = await database.fetch(SCHEMA, **settings)
    return {
        (row["kind"], row["name"]): re.sub(r"\s+", " ", row["definition"])
        for row in rows
        if "alembic_version" not in row["name"]
    }


async def alembic(*arguments: str, **settings: str) -> str:
    done = await asyncio.to_thread(database.alembic, *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


async def test_there_and_back_and_there_again(empty: dict[str, str]) -> None:
    await alembic("upgrade", "head", **empty)
    there = await schema(**empty)
    assert len(there) > 100
    async with database.connected(**empty) as other, other.transaction():
        await other.execute("LOCK TABLE countries IN ACCESS SHARE MODE")  # as any query that is under way
        done = await asyncio.to_thread(database.alembic, "downgrade", "base", **empty)
        assert done.returncode != 0
        assert done.stderr.splitlines()[-1].startswith("the schema was not changed: PostgreSQL ended a statement")
    assert await schema(**empty) == there
    await alembic("downgrade", "base", **empty)
    assert await schema(**empty) == {}
    await alembic("upgrade", "head", **empty)
    assert await schema(**empty) == there


async def test_tables_functions_and_migrations_say_the_same(empty: dict[str, str]) -> None:
    address = database.url(**empty)
    async with (
        open_database(address, application_name="tests", timeout=5) as created,
        created.engine.begin() as connection,
    ):
        await connection.run_sync(Base.metadata.create_all)
    assert await schema(**empty) == await schema()
    assert "No new upgrade operations detected" in await alembic("check")


async def test_several_at_once_are_one_after_the_other(empty: dict[str, str]) -> None:
    done = await asyncio.gather(*(alembic("upgrade", "head", **empty) for _ in range(3)))
    assert sum("Running upgrade" in text for text in done) == 1
    assert await schema(**empty) == await schema()


async def test_sql_can_be_read_before_it_is_run() -> None:
    written = await alembic("upgrade", "head", "--sql", POSTGRES_PORT="1")  # asks no server
    tables = {*Base.metadata.tables, "alembic_version"}
    assert {name for name in tables if f"CREATE TABLE {name} (" in written} == tables


def test_a_server_that_is_away_is_one_line_without_an_address() -> None:
    done = database.alembic("upgrade", "head", POSTGRES_PORT="1")
    assert done.returncode != 0
    assert done.stderr.splitlines() == [
        "the schema was not changed: PostgreSQL refused or dropped the connection"
    ]
