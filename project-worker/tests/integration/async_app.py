"""The tasks of `async_contracts`, on the project's own app: `celery -A async_app:app worker`.

How it works: a task's trace in the database is its row in `inbox`: there if its transaction was committed, not
there if it was rolled back.

What belongs here: coroutines that use the database, and hang, fail or die on purpose.
"""

import asyncio
import os
import signal
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import celery
from async_contracts import CLEANED_UP, CONFLICT_ONCE, DOUBLE, HOLD, LOCATE, NOT_JSON, WRITE_TWICE, Place
from celery.concurrency.asynpool import AsynPool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from project_database.errors import TransactionConflict
from project_database.tables import InboxEntry
from worker.config import load_settings
from worker.database.session import transaction
from worker.main import create_app
from worker.tasks.binding import TaskBinder

# A child that died is replaced when its end is noticed; where Celery looks too early, when it looks again: after
# 5 s, which tests need not wait.
_timers = property(lambda pool: {pool.maintain_pool: 0.2})
AsynPool.timers = _timers  # type: ignore[method-assign,assignment]  # celery-types takes it for a method

settings = load_settings()
app = create_app(settings)
task = TaskBinder(app=app, settings=settings)


def _request() -> Any:
    return celery.current_task.request


def _run() -> int:
    request = _request()
    return 1 + int(request.retries) + int(request.redeliveries)


async def _write(session: AsyncSession) -> None:
    session.add(InboxEntry(task_id=uuid.UUID(_request().id)))
    await session.flush()


async def _backend() -> int:
    async with transaction() as session:
        return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)


@task(LOCATE)
async def locate() -> Place:
    """Say where it runs, in two transactions at a time."""
    backends = await asyncio.gather(_backend(), _backend())
    return Place(pid=os.getpid(), loop=id(asyncio.get_running_loop()), backends=list(backends), run=_run())


@task(HOLD)
async def hold(folder: str, how: str) -> int:
    """Write a row and do not come to an end; return the number of the run that did."""
    try:
        async with transaction() as session:
            await _write(session)
            match how:
                case "await":
                    await asyncio.sleep(60)
                case "query":
                    await session.execute(text("SELECT pg_sleep(50)"))
                case "block":
                    while True:
                        time.sleep(0.1)  # noqa: ASYNC251 (what nobody should do)
                case "swallow":
                    while True:
                        with suppress(asyncio.CancelledError):
                            await asyncio.sleep(60)
                case "die once" if _run() == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
    except asyncio.CancelledError:
        with (Path(folder) / CLEANED_UP).open("a") as file:
            file.write(f"{os.getpid()}\n")
        raise
    return _run()


@task(DOUBLE)
async def double(number: int) -> int:
    """A step of a chain."""
    async with transaction() as session:
        return int(await session.scalar(text("SELECT CAST(:number AS integer) * 2"), {"number": number}) or 0)


@task(WRITE_TWICE)
async def write_twice() -> int:
    """Break a rule of the database."""
    for _ in range(2):
        async with transaction() as session:
            await _write(session)
    return 0


@task(CONFLICT_ONCE)
async def conflict_once() -> int:
    """Meet another transaction in the first run; return the number of the run that did not."""
    async with transaction() as session:
        await _write(session)
        if _run() == 1:
            raise TransactionConflict("the transaction met another one and was undone; send it again")
    return _run()


@task(NOT_JSON)
async def not_json() -> object:
    """Return what cannot be stored."""
    await asyncio.sleep(0)
    return object()
