"""Consumer: takes messages from the broker, and drops none without a word.

How it works: Celery acknowledges what it cannot decode, and discards what it does not know; some malformed
messages end the worker. Here each message is looked at before it becomes a task. One that cannot become one is
rejected, which makes it a dead letter, and a FAILURE that says why is stored for whoever waits, where its id can
be read; a chord that it is a part of fails. Should Redis be away or the worker die in between, whoever works off
the dead letters (`reaper.py`) stores the same.

Only messages of Celery's protocol 2 are taken, which all clients have sent since Celery 4.

What belongs here: messages that are no tasks, yet or never.
"""

import contextlib
import logging
from collections.abc import Callable, Container
from datetime import UTC, datetime
from typing import Any

import celery.worker.consumer
from celery import signals
from celery.app.task import Context
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.exceptions import BackendError, InvalidTaskError, NotRegistered
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.exceptions import ContentDisallowed, DecodeError
from redis.exceptions import RedisError

from async_celery.json_text import json_decoder
from async_celery.signed_pickle import check_envelope
from async_celery.worker import liveness, wire
from async_celery.worker.backend import backend_of
from async_celery.worker.observer import End, observer_of
from async_celery.worker.subject import busy_with, subject_of_message

_logger = logging.getLogger(__name__)

_JSON, _UTF_8 = "application/json", ("utf-8", "UTF-8")
_MARK = "__type__"
_decode_json = json_decoder()
_NOTHING = type(None)
_NO_LIMITS = [None, None]
_HEADER_TYPES: dict[str, tuple[type, ...]] = {
    "task": (str, _NOTHING),
    "root_id": (str, _NOTHING),
    "parent_id": (str, _NOTHING),
    "group": (str, _NOTHING),
    "shadow": (str, _NOTHING),
    "retries": (int, _NOTHING),
    "redeliveries": (int, _NOTHING),
    "timelimit": (list, tuple, _NOTHING),
    "stamped_headers": (list, _NOTHING),
    "stamps": (dict, _NOTHING),
}
"""What Celery and this package take for granted of a message's headers."""


class Consumer(celery.worker.consumer.Consumer):
    """Celery's consumer, which refuses aloud."""

    Blueprint = liveness.Blueprint

    # Celery's own, which its type stubs lack.
    strategies: dict[str, Any]
    connection_errors: tuple[type[Exception], ...]
    event_dispatcher: Any
    loop: Callable[..., None]
    app: Any

    def __init__(self, on_task_request: Any, *, app: Any, **options: Any) -> None:
        """Take what Celery gives.

        Raises:
            ImproperlyConfigured: results are not stored in one Redis server.
        """
        backend = backend_of(app)
        super().__init__(on_task_request, app=app, **options)
        if isinstance(self.pool, ProcessPool) or self._runs_meanwhile:
            backend.hurry()
            self.loop = wire.holding(self.loop)

    @property
    def _runs_meanwhile(self) -> Any:
        """How this process waits without holding up the tasks that run in it; None where none do."""
        return getattr(self.pool, "meanwhile", None)

    def ensure_connected(self, connection: Any) -> Any:
        """Return the connection, connected."""
        if (meanwhile := self._runs_meanwhile) is not None:
            return meanwhile(super().ensure_connected, connection)
        return super().ensure_connected(connection)

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Return what this worker consumes on, connected."""
        connected: Any = self.ensure_connected(wire.own(self.app.connection_for_read(heartbeat=heartbeat)))
        return connected

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Begin no more tasks of a connection that is lost: they come back."""
        pool: Any = self.pool
        if isinstance(self.pool, ProcessPool):
            pool._pool.take_all_back()
        super().on_connection_error_after_connected(exc)

    def create_task_handler(self, *_: Any, **__: Any) -> Callable[[Any], None]:
        """Return what is called with each message."""
        handle = super().create_task_handler()
        entrance = None
        if self._runs_meanwhile is not None:
            # Where tasks run in this process, greenlet is installed.
            from async_celery.worker.direct import Entrance

            entrance = Entrance(self)

        def receive(message: Any) -> None:
            with busy_with(subject_of_message(message)):
                try:
                    _check(message, known=self.strategies)
                except Exception as exc:
                    self.refuse(message, exc)
                else:
                    try:
                        if entrance is None or not entrance.take(message):
                            handle(message)
                    except (BackendError, RedisError) as exc:
                        # Of the little that Celery itself refuses here; the reaper stores that.
                        _logger.warning("The end of %s is left to the reaper: %s", message.headers["id"], exc)
                        message.reject_log_error(_logger, self.connection_errors)

        return receive

    def on_invalid_task(self, _: Any, message: Any, exc: Exception) -> None:
        """Refuse what Celery could not make a request of."""
        self.refuse(message, exc)

    def refuse(self, message: Any, exc: Exception) -> None:
        """Make the message a dead letter, and its task a failure that says why; unless it has expired."""
        headers = message.headers if isinstance(message.headers, dict) else {}
        task_id, name = headers.get("id"), headers.get("task")
        if isinstance(exc, DecodeError) and isinstance(task_id, str) and _has_expired(headers):
            _count_refused(self, message, End.EXPIRED)
            # A signature gets stale at the moment when its message expires, and is looked at first.
            _logger.info("Task %s[%s] has expired", name, task_id)
            try:
                self.app.backend.mark_as_revoked(task_id, "expired", request=context_of(message))
            except Exception as problem:
                _logger.warning("The end of %s is left to the reaper: %s", task_id, problem)
                message.reject_log_error(_logger, self.connection_errors)
            else:
                message.ack_log_error(_logger, self.connection_errors)
            return
        _count_refused(self, message, End.REJECTED)
        exc = _explained(message, exc)
        _logger.error(
            "Message refused (task %s[%s], content type %s, %s): %s: %s",
            name,
            task_id,
            message.content_type,
            message.delivery_info,
            type(exc).__name__,
            exc,
        )
        # First: what follows can fail, and then the dead letter still tells of it.
        message.reject_log_error(_logger, self.connection_errors)
        if isinstance(task_id, str):
            try:
                self.app.backend.mark_as_failure(task_id, exc, request=context_of(message))
            except Exception as problem:
                _logger.warning("The failure of %s is left to the reaper: %s", task_id, problem)
            if self.event_dispatcher:
                self.event_dispatcher.send("task-failed", uuid=task_id, exception=f"{type(exc).__name__}({exc})")
        signals.task_rejected.send(sender=self, message=message, exc=exc)


def refusal_of(message: Any, *, known: Container[str]) -> Exception | None:
    """Return why the message cannot become a task, as an error that says what to do; None when it can.

    Args:
        message: kombu's, which knows what content types are accepted.
        known: the names of tasks.
    """
    try:
        _check(message, known=known)
    except Exception as exc:
        return _explained(message, exc)
    return None


def _check(message: Any, *, known: Container[str]) -> None:
    """Raise when the message cannot become a task."""
    headers = message.headers
    if not (
        isinstance(headers, dict) and isinstance(headers.get("task"), str) and isinstance(headers.get("id"), str)
    ):
        raise InvalidTaskError("it has no headers `id` and `task`")
    for name, types in _HEADER_TYPES.items():
        if not isinstance(headers.get(name), types):
            raise InvalidTaskError(f"its header `{name}` is {headers[name]!r:.100}")
    limits = headers.get("timelimit")
    if (
        limits
        and limits != _NO_LIMITS
        and not (len(limits) == 2 and all(isinstance(limit, int | float | None) for limit in limits))
    ):
        raise InvalidTaskError(f"its header `timelimit` is {limits!r:.100}")
    if headers["task"] not in known:
        raise NotRegistered(headers["task"])
    _decode(message)
    check_envelope(message)
    _parts(message)


def _decode(message: Any) -> None:
    """Decode a body of plain JSON, and keep it where kombu does.

    kombu looks at every object of the JSON for its marks of types, which takes longer than all the rest. Where
    there is none, nor an escape that could hide one, it is not asked; nor has it anything to refuse.
    """
    body = message.body
    if (
        message.content_type == _JSON
        and message.content_encoding in _UTF_8
        and (message.accept is None or _JSON in message.accept)
        and not message.errors
    ):
        with contextlib.suppress(TypeError, ValueError):  # kombu will say what is wrong with it
            text = body if isinstance(body, str) else bytes(body).decode()
            if _MARK not in text and "\\u" not in text:
                message._decoded_cache = _decode_json(text)


def _parts(message: Any) -> tuple[Any, Any, Any]:
    """Return the decoded body: arguments, keyword arguments, and what comes after the task."""
    # Decoded once, and kept for Celery.
    match message.payload:
        case [list() | tuple() as args, dict() as kwargs, dict() | None as embed]:
            return args, kwargs, embed
    raise InvalidTaskError("its body is not [args, kwargs, embed]")


def context_of(message: Any) -> Context:
    """Return what the result backend needs to know of a message's task, as far as it can be read."""
    headers = message.headers if isinstance(message.headers, dict) else {}
    context = {
        name: value for name, value in headers.items() if isinstance(value, _HEADER_TYPES.get(name, object))
    }
    context["delivery_info"] = {"routing_key": message.delivery_info.get("routing_key")}
    try:
        args, kwargs, embed = _parts(message)
    except Exception:
        # Then nobody can know of a chord but the sweeper.
        _logger.debug("The body is not readable", exc_info=True)
    else:
        context |= {**(embed or {}), "args": args, "kwargs": kwargs}
    return Context(context)


def _count_refused(consumer: Consumer, message: Any, end: End) -> None:
    observer = observer_of(consumer.app)
    name = message.headers.get("task") if isinstance(message.headers, dict) else None
    if not (isinstance(name, str) and name in consumer.strategies):
        observer.message_unknown()
        return
    request = {"delivery_info": message.delivery_info}
    observer.message_received(name, request)
    observer.message_ended(name, request, end)


def _has_expired(headers: dict[str, Any]) -> bool:
    try:
        expires = maybe_iso8601(headers.get("expires"))
    except (ValueError, TypeError, AttributeError):
        return False
    return expires is not None and maybe_make_aware(expires) < datetime.now(UTC)


def _explained(message: Any, exc: Exception) -> Exception:
    """Return the error with a message that says what to do."""
    match exc:
        case NotRegistered():
            name = message.headers["task"]
            return NotRegistered(f"no task is named {name!r} here: check the name, or start a worker that has it")
        case ContentDisallowed():
            return ContentDisallowed(
                f"the worker of this queue does not take {message.content_type}: send it as JSON, or to a queue "
                "whose worker takes it (accept_content)"
            )
        case DecodeError() | UnicodeError():
            return DecodeError(
                f"the body is not what its content type, {message.content_type}, says: {exc}"[:500]
            )
        case InvalidTaskError():
            return InvalidTaskError(
                f"not a task message of Celery's protocol 2, {exc}: send it with a Celery client"
            )
        case _:
            return InvalidTaskError(f"the message cannot be read ({type(exc).__name__}: {exc})"[:500])
