"""Runs migrations: what `alembic` (see `alembic.ini`) does with the database.

How it works: the database is the one of the POSTGRES_* settings, and nothing else is needed of them. All pending
migrations run in one transaction: the schema is the new one or the old one. Only one process at a time migrates,
whoever else starts meanwhile (another replica) waits for it and finds nothing left to do. A migration that cannot
get a table's lock soon gives up, as everybody else would wait behind it.

What belongs here: connection, locking, what is compared. Changes of the schema are in `versions/`.
"""

import asyncio
import sys
from logging.config import fileConfig
from pathlib import Path

from alembic import context
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import Connection, text

from project_contracts.connections import DatabaseConnection, explain_settings_error, find_env_file
from project_database.errors import DatabaseError
from project_database.sessions import open_database
from project_database.tables import Base

_TURN = 0x5C4E3A
"""Key of the advisory lock of whoever migrates: any number that nobody else uses in this database."""

_TURN_TIMEOUT = 600
"""How long to wait for another process's migrations, in s."""

_LOCK_TIMEOUT = 1
"""How long a migration waits for a table, in s: less than the API's requests, which queue up behind it."""

_STATEMENT_TIMEOUT = 3600
"""How long one statement may take, in s: an index on a large table."""


class Settings(DatabaseConnection, BaseSettings):
    """Where the database is."""

    model_config = SettingsConfigDict(env_file_encoding="utf-8", extra="ignore")


def read_settings() -> Settings:
    """Read them as the API does, or exit with a message that names what is missing."""
    try:
        env_file = find_env_file(Path.cwd()) or find_env_file(Path(__file__).resolve().parent)
        return Settings(_env_file=env_file)
    except ValidationError as error:
        sys.exit(explain_settings_error("project-api's alembic", error))


def migrate(connection: Connection) -> None:
    """Run what is pending, when it is this process's turn."""
    connection.execute(text(f"SET lock_timeout = '{_TURN_TIMEOUT}s'"))
    connection.execute(text("SELECT pg_advisory_lock(:turn)"), {"turn": _TURN})  # until the connection closes
    connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}s'"))
    connection.commit()
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_online() -> None:
    """Run migrations on the database of the settings."""
    async with (
        open_database(
            read_settings().database,
            application_name="project-api migrations",
            timeout=10,
            pool_size=1,
            statement_timeout=_STATEMENT_TIMEOUT,
        ) as database,
        database.engine.connect() as connection,
    ):
        await connection.run_sync(migrate)


def print_sql() -> None:
    """Print what would be run (`alembic upgrade head --sql`)."""
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    print_sql()
else:
    try:
        asyncio.run(migrate_online())
    except DatabaseError as error:
        sys.exit(f"the schema was not changed: {error}")
