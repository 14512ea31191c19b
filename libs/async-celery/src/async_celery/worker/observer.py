"""Observer: who is told what becomes of a worker's messages, one by one.

How it works: the classes of this package know of each message when it comes, when its task begins, and how it
ends; they tell the app's observer. There is one per app, which does nothing by default, so that a worker without
metrics needs no library for them. Each delivery of a message ends once. Its end is told by the process that knows
it: the pool's process, if the task's run came to an end there; else the main process.

What belongs here: what can be told. What is made of it is in `metrics`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery


class End(StrEnum):
    """How one delivery of a message ends. The first five are told by the pool's processes, where these can."""

    SUCCESS = "success"
    FAILURE = "failure"
    RETRY = "retry"
    IGNORED = "ignored"  # also a delivery of a task that has finished before
    REJECTED = "rejected"  # also a message that cannot become a task: of it, the main process tells
    REVOKED = "revoked"
    EXPIRED = "expired"
    TIME_LIMIT = "time_limit"
    WORKER_LOST = "worker_lost"


class Observer:
    """Is told, and does nothing: inherit from it. No method may raise, or wait.

    `request` is what Celery knows of a message, mostly its headers.
    """

    def message_received(self, task: str, request: Mapping[str, Any]) -> None:
        """A message of a task that is registered here has come."""

    def message_unknown(self) -> None:
        """A message has come, of no task that is registered here."""

    def message_ended(self, task: str, request: Mapping[str, Any], end: End, error: str | None = None) -> None:
        """A delivery has ended; `error` is the failure's exception, by its class's name."""

    def run_began(self, task: str, request: Mapping[str, Any]) -> None:
        """The body of a task is about to run, in this thread; `request` says since when (`started_at`)."""

    def result_stored(self, task: str | None, seconds: float) -> None:
        """To store the end of a task took so long."""


NOBODY = Observer()
"""Where nobody listens."""

_KEY = "async_celery_observer"


def observe(app: "Celery", observer: Observer) -> None:
    """Have it told, from now on, what becomes of the messages of the app's workers; nobody else is."""
    setattr(app, _KEY, observer)


def observer_of(app: "Celery") -> Observer:
    """Return who is told."""
    observer: Observer = getattr(app, _KEY, NOBODY)
    return observer
