"""The connection pool to PostgreSQL.

How it works: one engine per process, made in the lifespan. Today readiness is its only user; sessions and
repositories join it here.

What belongs here: engine, sessions, transaction scope. Queries belong to repositories.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import URL, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.config import Settings
from app.database.errors import DatabaseError


class Database:
    """PostgreSQL as the API sees it."""

    def __init__(self, engine: AsyncEngine, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout  # s
        self._cleaning_up: set[asyncio.Future[None]] = set()

    async def ping(self) -> None:
        """Run `SELECT 1` on a pooled connection.

        Raises:
            DatabaseError: PostgreSQL refused, failed, or did not answer within the time-out.
        """
        probe = asyncio.ensure_future(self._probe())
        # Not `asyncio.timeout`: a cancelled query is first cleaned up, which a frozen server delays as well. The
        # answer does not wait for that.
        done, _ = await asyncio.wait({probe}, timeout=self._timeout)
        if not done:
            probe.cancel()
            self._cleaning_up.add(probe)
            probe.add_done_callback(self._cleaned_up)
            raise DatabaseError(f"PostgreSQL did not answer within {self._timeout:g} s") from TimeoutError()
        try:
            probe.result()
        except (SQLAlchemyError, OSError) as error:
            raise DatabaseError("PostgreSQL refused or dropped the connection") from error

    async def _probe(self) -> None:
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    def _cleaned_up(self, probe: asyncio.Future[None]) -> None:
        self._cleaning_up.discard(probe)
        if not probe.cancelled():
            probe.exception()  # seen: the caller has been told already


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """Make the engine, close its connections at the end. Nothing is opened until the first use."""
    timeout = settings.database_timeout_seconds
    engine = create_async_engine(
        URL.create(
            "postgresql+asyncpg",
            username=settings.postgres_user,
            password=settings.postgres_password.get_secret_value(),
            host=settings.postgres_host,
            port=settings.postgres_port,
            database=settings.postgres_db,
        ),
        pool_size=5,
        pool_timeout=timeout,
        pool_pre_ping=True,  # a connection that died with the server is replaced, not handed out
        connect_args={"timeout": timeout, "command_timeout": timeout},
    )
    try:
        yield Database(engine, timeout)
    finally:
        await engine.dispose()
