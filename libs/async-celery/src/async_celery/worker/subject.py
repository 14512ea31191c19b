"""The task that this thread is busy with, for whoever writes its log lines.

How it works: Celery knows a running task in its child, and there only while the tracer runs; the lines of the
main process (received, revoked, lost, out of time) name a task in their text. So whoever handles a message says
so meanwhile: the consumer, the request, the guard around the tracer, the reaper. It is a context variable: each
thread has its own, and a coroutine inherits its task's.

What belongs here: that variable.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from functools import wraps
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

R = TypeVar("R")

_NONE: Mapping[str, Any] = MappingProxyType({})


class Subject(NamedTuple):
    """A task message that is being handled. Whoever sent it wrote the headers: a value may be of any type.

    Attributes:
        headers: Celery's and the caller's; in a worker's process, all that Celery knows of the request.
        delivery: how it came (`routing_key`).
    """

    headers: Mapping[str, Any]
    delivery: Mapping[str, Any]


NOTHING = Subject(_NONE, _NONE)

_subject: ContextVar[Subject] = ContextVar("async_celery_subject", default=NOTHING)


def current_subject() -> Subject:
    """Return the message that is being handled here; `NOTHING` where there is none."""
    return _subject.get()


def forget() -> None:
    """Be busy with nothing, in this context: for what outlives the task that it was begun in."""
    _subject.set(NOTHING)


class busy_with:  # noqa: N801 (it is used as a function; a generator would take longer)
    """Handle the message meanwhile."""

    __slots__ = ("_subject", "_token")

    _token: Token[Subject]

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __enter__(self) -> None:
        self._token = _subject.set(self._subject)

    def __exit__(self, *_: object) -> None:
        _subject.reset(self._token)


def subject_of_message(message: Any) -> Subject:
    """Return kombu's message as a subject."""
    return Subject(_mapping(message.headers), _mapping(message.delivery_info))


def subject_of_request(request: Mapping[str, Any]) -> Subject:
    """Return what Celery knows of a request as a subject."""
    return Subject(request, _mapping(request.get("delivery_info")))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else _NONE


def of_request(method: Callable[..., R]) -> Callable[..., R]:
    """Return a request's method that is busy with the request's message."""

    @wraps(method)
    def busy(request: Any, *args: Any, **options: Any) -> R:
        # As `busy_with` does, several times for each task: without its cost.
        token = _subject.set(subject_of_request(request.request_dict))
        try:
            return method(request, *args, **options)
        finally:
            _subject.reset(token)

    return busy
