"""Transactions of tasks: where the numbers come from, and that there are none outside a task."""

import asyncio
from typing import Any

import pytest
from celery import Celery

from worker.config import Settings
from worker.database import session


def test_pool_and_time_outs_come_from_the_settings(app: Celery, settings: Settings) -> None:
    opener: Any = getattr(app, session._KEY)
    assert opener.args == (settings.database,)
    assert opener.keywords == {
        "application_name": "project-worker",
        "timeout": settings.postgres_connect_timeout_seconds,
        "pool_size": settings.postgres_pool_size,
        "pool_timeout": settings.postgres_pool_timeout_seconds,
        "lock_timeout": settings.postgres_lock_timeout_seconds,
        "statement_timeout": settings.postgres_statement_timeout_seconds,
        "traced": False,
    }
    assert (settings.postgres_pool_size, settings.postgres_statement_timeout_seconds) == (2, 60)


def test_there_is_no_transaction_outside_a_task() -> None:
    async def write() -> None:
        async with session.transaction():
            raise AssertionError

    with pytest.raises(RuntimeError, match="no task runs here"):
        asyncio.run(write())
