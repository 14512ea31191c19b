"""How the API opens PostgreSQL: its settings, handed to the library that both projects share.

How it works: one pool per process, made in the lifespan. Transactions are opened by `app/api/transactions.py` for
each request, or by what runs beside requests.

What belongs here: which setting goes where. Pool, time-outs and errors are `project_database.sessions`'; queries
belong to repositories.
"""

from contextlib import AbstractAsyncContextManager

from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import Settings
from project_contracts import traces
from project_database import sessions

Session = AsyncSession
"""One transaction's session: what endpoints get, and hand to repositories."""


def open_database(
    settings: Settings, observer: sessions.PoolObserver
) -> AbstractAsyncContextManager[sessions.Database]:
    """Make the pool, close its connections at the end. Nothing is opened until the first use."""
    return sessions.open_database(
        settings.database,
        application_name="project-api",
        timeout=settings.database_timeout_seconds,
        pool_size=settings.database_pool_size,
        pool_timeout=settings.database_pool_timeout_seconds,
        lock_timeout=settings.database_lock_timeout_seconds,
        statement_timeout=settings.database_statement_timeout_seconds,
        observer=observer,
        traced=traces.are_wanted(),
    )
