"""Celery from asyncio: broker-confirmed sends, results and workflows that never block the loop.

How it works: `AsyncCelery` sends tasks by name and returns a `TaskHandle` to wait on; errors are in one tree
under `AsyncCeleryError`. It stands alone: no web framework, no settings, no task code.

What belongs here: the public names, nothing else.
"""

from async_celery.client import AsyncCelery
from async_celery.dead_letters import DeadLetter, DeadLetters
from async_celery.errors import (
    AsyncCeleryError,
    BackendError,
    BadCursor,
    Blocked,
    DeadLetterNotFound,
    Nacked,
    PayloadError,
    PublishError,
    PublishTimeout,
    ResultTimeout,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TaskRevoked,
    TransportError,
    Unroutable,
    Unsupported,
)
from async_celery.handle import GroupHandle, TaskHandle
from async_celery.history import HistoryEntry, HistoryPage
from async_celery.types import OnTimeout, TaskErrorInfo, TaskState, TaskStatus, TaskTimeline

__all__ = [
    "AsyncCelery",
    "AsyncCeleryError",
    "BackendError",
    "BadCursor",
    "Blocked",
    "DeadLetter",
    "DeadLetterNotFound",
    "DeadLetters",
    "GroupHandle",
    "HistoryEntry",
    "HistoryPage",
    "Nacked",
    "OnTimeout",
    "PayloadError",
    "PublishError",
    "PublishTimeout",
    "ResultTimeout",
    "TaskError",
    "TaskErrorInfo",
    "TaskExpired",
    "TaskFailed",
    "TaskHandle",
    "TaskNotFound",
    "TaskRevoked",
    "TaskState",
    "TaskStatus",
    "TaskTimeline",
    "TransportError",
    "Unroutable",
    "Unsupported",
]
