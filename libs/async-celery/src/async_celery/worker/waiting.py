"""Waiting: how synchronous code of a worker waits without holding up an event loop, where it runs on one.

How it works: with the pool `asyncio`, Celery's code around a task runs in a greenlet on the worker's event loop
(`jobs.py`). Code that would block asks `may_wait`, and there hands what it waits for to `wait`. Everywhere
else, in a pool of processes or in a thread, `may_wait` is False, and it blocks as ever.

What belongs here: what the modules of all pools need to know of it, without greenlets.
"""

from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from celery import Celery

    from async_celery.worker.jobs import Job

T = TypeVar("T")


class Stack(Protocol):
    """A call stack that can be left and come back to."""

    @property
    def is_mine(self) -> bool:
        """Whether what asks runs on it."""

    def wait(self, awaitable: Awaitable[T]) -> T:
        """Leave it until there is an answer."""


stack: ContextVar[Stack | None] = ContextVar("async_celery_stack", default=None)
"""What stands here runs beside an event loop."""
job: "ContextVar[Job | None]" = ContextVar("async_celery_job", default=None)
"""Whose task it is."""


def may_wait() -> bool:
    """Whether `wait` may be called here: in the code around a body, not in a body of its own, nor in a thread."""
    mine = stack.get()
    return mine is not None and mine.is_mine


def wait(awaitable: Awaitable[T]) -> T:
    """Return what is awaited; other tasks run meanwhile.

    Raises:
        RuntimeError: called where it must not (`may_wait`).
    """
    mine = stack.get()
    if mine is None or not mine.is_mine:
        raise RuntimeError("nothing can be waited for here without blocking")
    return mine.wait(awaitable)


def current_job() -> "Job | None":
    """Return the job that runs in this context; None with the other pools."""
    return job.get()


_KEY = "async_celery_runs_here"


def run_here(app: "Celery") -> None:
    """Say that the app's tasks run in the process that takes their messages."""
    setattr(app, _KEY, True)


def runs_here(app: "Celery") -> bool:
    """Return whether they do."""
    return getattr(app, _KEY, False)
