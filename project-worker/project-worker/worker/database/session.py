"""Transactions of the tasks, on the connections of the child that they run in.

How it works: `configure` tells the app where its database is and opens nothing. The first task that asks for a
transaction opens a pool of its child's own, on the child's event loop (`async_celery.worker.shared`), so no
connection crosses a fork. Later tasks find it there, and the end of the child closes it. A task's time limit and
its cancellation end its transaction too: it is rolled back.

What belongs here: how a task gets a session. Queries are the repositories'.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from celery import Celery, current_task
from sqlalchemy.ext.asyncio import AsyncSession

from async_celery.worker import shared
from project_contracts import traces
from project_database.sessions import open_database
from worker.config import Settings

_KEY = "project_database"


def configure(app: Celery, settings: Settings) -> None:
    """Have the tasks of `app` use the database of `settings`."""
    opener = partial(
        open_database,
        settings.database,
        application_name=settings.worker_name,
        timeout=settings.postgres_connect_timeout_seconds,
        pool_size=settings.postgres_pool_size,
        pool_timeout=settings.postgres_pool_timeout_seconds,
        lock_timeout=settings.postgres_lock_timeout_seconds,
        statement_timeout=settings.postgres_statement_timeout_seconds,
        traced=traces.are_wanted(),
    )
    setattr(app, _KEY, opener)


@asynccontextmanager
async def transaction() -> AsyncIterator[AsyncSession]:
    """Open a session for one transaction: committed at the end of the block, rolled back when it raises.

    To be used in the coroutine of an `async def` task.

    Raises:
        RuntimeError: no task runs here.
        DatabaseUnavailable, TransactionConflict: such a task runs again (`worker/tasks/binding.py`).
        ConstraintViolated: the task's answer.
    """
    task: Any = current_task
    if not task:
        raise RuntimeError("no task runs here: open a transaction in the coroutine of an `async def` task")
    database = await shared(getattr(task.app, _KEY))
    async with database.transaction() as session:
        yield session
