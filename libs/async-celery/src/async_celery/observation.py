"""What a client tells about its work while it does it, for whoever measures.

How it works: `AsyncCelery(observer=…)` calls the methods of an `Observer` where things happen: in the event loop,
in the middle of sending and waiting. What they raise is logged once, and reaches nobody. The library itself keeps
no figures and knows no metrics library; without an observer, a send pays some 0.2 µs for the seam.

What belongs here: what can be observed, and in which words.
"""

import logging
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any, TypeVar

from async_celery.errors import Nacked, PublishTimeout, Unroutable

Method = TypeVar("Method", bound=Callable[..., None])

_logger = logging.getLogger(__name__)


class PublishOutcome(StrEnum):
    """How sending a message ended."""

    OK = "ok"
    """The broker has confirmed it."""
    NACKED = "nacked"
    """The broker has refused it: its queue is full."""
    UNROUTABLE = "unroutable"
    """The broker has returned it: there was no queue for it."""
    TIMEOUT = "timeout"
    """Nobody knows: no answer in time, or its sender was cancelled before there was one."""
    ERROR = "error"
    """It was not sent: no connection, the broker takes no messages, or it cannot be encoded. To an AMQP broker, a
    workflow of which nothing was sent is one message that was not."""

    @classmethod
    def of(cls, error: BaseException) -> "PublishOutcome":
        """Return what an error of a send means."""
        if isinstance(error, Exception):
            return _OUTCOMES.get(type(error), cls.ERROR)
        return cls.TIMEOUT


_OUTCOMES: dict[type[Exception], PublishOutcome] = {
    Nacked: PublishOutcome.NACKED,
    Unroutable: PublishOutcome.UNROUTABLE,
    PublishTimeout: PublishOutcome.TIMEOUT,
}


class WaitOutcome(StrEnum):
    """How waiting for a result ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    REVOKED = "revoked"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"
    """There is no such task, or none any more."""
    ABANDONED = "abandoned"
    """Who waited was cancelled, or the client closed."""


class RevokeReason(StrEnum):
    """Why a task was revoked."""

    CANCEL = "cancel"
    """`TaskHandle.cancel` was called."""
    TIMEOUT = "timeout"
    """`TaskHandle.result` had waited long enough."""


class Observer:
    """Is told what a client does, and does nothing. Subclass it: what you leave out goes on doing nothing.

    Every method is called on the event loop, in the way of messages and results: it must be quick. `task` is a
    task's name, for a workflow `chain`, `group` or `chord`; None where nobody here knows it, as for a handle that
    was made from an id.
    """

    def published(self, task: str, queue: str, outcome: PublishOutcome, seconds: float, size: int) -> None:
        """Sending one task's message has ended.

        Args:
            task: its name.
            queue: where to.
            outcome: how.
            seconds: since it was handed over, until its sender heard of the end.
            size: as it is written to the broker, in bytes; 0 where it was not encoded, and for other brokers than
                AMQP, which do not say.
        """

    def connected(self, *, again: bool) -> None:
        """The connection to the AMQP broker stands, for the first time or `again`."""

    def disconnected(self) -> None:
        """That connection has ended."""

    def revoked(self, task: str | None, reason: RevokeReason) -> None:
        """A task or workflow has been revoked."""

    def wait_began(self) -> None:
        """Somebody waits for a result."""

    def wait_ended(self, task: str | None, outcome: WaitOutcome, seconds: float) -> None:
        """Somebody has waited so long, in s; follows each `wait_began`."""

    def delivered(self, task: str | None, seconds: float) -> None:
        """A result has reached who waits for it, so many s after it was stored, or after the wait began if it was
        there before. By the worker's clock and ours: never below 0.
        """

    def polled(self) -> None:
        """Results were read for those who wait, because a push may have been missed, or there is none."""


NOBODY = Observer()
"""Looks at nothing."""


def guarded(observer: Observer) -> Observer:
    """Return one that tells this one, and lets nothing out that goes wrong there."""
    return observer if observer is NOBODY else _Guarded(observer)


def _guard(method: Method) -> Method:
    name = method.__name__

    @wraps(method)
    def tell(self: "_Guarded", *args: Any, **kwargs: Any) -> None:
        try:
            getattr(self.observer, name)(*args, **kwargs)
        except Exception:
            if not self.has_failed:
                self.has_failed = True
                _logger.exception("The observer failed in %s; what else goes wrong with it is not logged", name)

    return tell  # type: ignore[return-value]  # it has the method's signature


class _Guarded(Observer):
    """Tells another one."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.has_failed = False

    published = _guard(Observer.published)
    connected = _guard(Observer.connected)
    disconnected = _guard(Observer.disconnected)
    revoked = _guard(Observer.revoked)
    wait_began = _guard(Observer.wait_began)
    wait_ended = _guard(Observer.wait_ended)
    delivered = _guard(Observer.delivered)
    polled = _guard(Observer.polled)
