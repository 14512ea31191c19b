"""ReliableRequest: what a worker's main process does with a message whose task has ended, well or not.

How it works: Celery makes one `Request` per message, of the class that the task names. This one adds when the
message came; it understands the outcomes of `task.py`, which are stored already; and it gives the attempt back of
a task that the worker itself interrupts, at its shutdown or when its connection to the broker is lost. It never
waits for Redis: a message whose end cannot be stored here is kept, by a process of the pool or by the broker.

What belongs here: one message. What comes before a message is a request is in `consumer.py`.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, cast

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # older stubs
from billiard.exceptions import Terminated, WorkerLostError
from celery import Celery, signals
from celery.app.task import Context
from celery.exceptions import Reject, TimeLimitExceeded
from celery.utils.time import maybe_iso8601
from celery.worker.request import Request
from celery.worker.state import task_ready

from async_celery.worker.observer import End, observer_of
from async_celery.worker.subject import of_request
from async_celery.worker.task import REVOKED_AS, GivenUp, Revoked
from async_celery.worker.waiting import runs_here

# Its stubs know less of what it takes.
_slow_time: Callable[[Any], datetime] = cast("Any", maybe_iso8601)

_UNKNOWN = object()

_logger = logging.getLogger(__name__)


class ReliableRequest(Request):
    """One task message in the worker's main process."""

    # Celery's own, which its type stubs lack.
    _context: Context
    _request_dict: dict[str, Any]
    _on_ack: Callable[..., Any]
    acknowledged: bool
    _app: Celery
    _type: str
    _already_cancelled: bool
    _already_revoked: bool
    _timezone: Any = _UNKNOWN  # None is one that is not set

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, maybe_iso8601=_time, **options)
        for name in ("redeliveries", "started_at", REVOKED_AS):
            # Of the run that begins, and nobody else's: set in `task.py`.
            self._request_dict.pop(name, None)
        self._request_dict["received_at"] = time.time()
        if runs_here(self._app):
            # The consumer has decoded it. Another process would have to do it again.
            self._body, self._content_type, self._content_encoding = message.payload, None, None
        observer_of(self._app).message_received(self._type, self._request_dict)

    @property
    def tzlocal(self) -> Any:
        """The app's timezone. Celery looks it up for each message that has a time in it."""
        # Celery makes a class of this one for each task of an app.
        cls = type(self)
        if cls._timezone is _UNKNOWN:
            cls._timezone = self._app.conf.timezone
        return cls._timezone

    @property
    def _backend(self) -> Any:
        return self.task.backend

    on_success = of_request(Request.on_success)
    on_retry = of_request(Request.on_retry)

    @of_request
    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Settle the message of a task that did not return; what `task.py` has stored is not stored again."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if not return_ok:
            self._tell_for_process(exc)
        if isinstance(exc, Revoked):
            task_ready(self)
            self.acknowledge()
            terminated, expired = str(exc) == "terminated", str(exc) == "expired"
            self._ended(End.EXPIRED if expired else End.REVOKED)
            self.send_event("task-revoked", terminated=terminated, signum=None, expired=expired)
            signals.task_revoked.send(
                sender=self.task, request=self._context, terminated=terminated, signum=None, expired=expired
            )
        elif isinstance(exc, GivenUp):
            task_ready(self)
            self.reject(requeue=False)
            self.send_event("task-failed", exception=str(exc.args[0]), traceback="")
        elif isinstance(exc, MemoryError):
            # Celery would raise it here, in a process that has memory.
            self._settle_out_of_memory(exc, stored=return_ok)
        else:
            if isinstance(exc, TimeLimitExceeded):
                # The pool's own says the number and no more.
                exc_info.exception = TimeLimitExceeded(
                    f"it ran longer than its time limit of {exc.args[0]:g} s, and its process was killed: let it "
                    "do less at once, or give it a longer time_limit"
                )
            with self._acknowledging_last(requeue=not isinstance(exc, Reject)):
                super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    @of_request
    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Store that the task ran into its time limit; of the soft one, the task itself hears."""
        with self._acknowledging_last(requeue=True):
            super().on_timeout(soft, timeout)

    @contextlib.contextmanager
    def _acknowledging_last(self, *, requeue: bool) -> Iterator[None]:
        """Let Celery acknowledge the message of a task whose end it has yet to store; that is done afterwards.

        Args:
            requeue: whether the message goes back where the end cannot be stored; else it is a dead letter.
        """
        acknowledge = self._on_ack
        due: list[Any] = []
        self._on_ack = lambda *args: due.append(args)
        try:
            yield
        except Exception as exc:
            _logger.warning("The end of task %s[%s] cannot be stored now: %r", self.name, self.id, exc)
            if due:
                self.acknowledged = False
            self.reject(requeue=requeue)
        else:
            for args in due:
                acknowledge(*args)
        finally:
            self._on_ack = acknowledge

    @of_request
    def revoked(self) -> bool:
        """Return whether the task was revoked or has expired, and its message is settled.

        What cannot be stored now goes on to a process of the pool, which waits for Redis and stores it.
        """
        return bool(super().revoked()) and self.acknowledged

    def _announce_revoked(self, reason: str, terminated: bool, *args: Any) -> None:
        try:
            super()._announce_revoked(reason, terminated, *args)  # type: ignore[misc]  # older stubs
        except Exception as exc:
            if terminated:
                raise
            _logger.warning("Task %s[%s] is %s, which cannot be stored yet: %s", self.name, self.id, reason, exc)
            self._request_dict[REVOKED_AS] = reason
        else:
            self._ended(End.EXPIRED if reason == "expired" else End.REVOKED)

    def _tell_for_process(self, exc: BaseException) -> None:
        """Tell the end that no process of the pool has told: the task's own died, or did not get so far."""
        match exc:
            case TimeLimitExceeded():
                self._ended(End.TIME_LIMIT)
            case WorkerLostError() | MemoryError():
                self._ended(End.WORKER_LOST)
            case SystemExit() | KeyboardInterrupt():
                if not (self._already_cancelled or self._already_revoked):
                    self._ended(End.WORKER_LOST)
            case Terminated():
                pass  # on purpose: it is revoked, or the broker takes its message back
            case _:
                self._ended(End.FAILURE, type(exc).__name__)

    def _ended(self, end: End, error: str | None = None) -> None:
        observer_of(self._app).message_ended(self._type, self._request_dict, end, error)

    def _success_was_stored(self) -> bool:
        """Say no, so that the message of a task whose process died goes back even where its result is stored.

        Celery would acknowledge it. But what follows a result, the body of a chord, may not have been sent: the
        next process finds the task finished and sees to that, without running it.
        """
        return False

    def _settle_out_of_memory(self, exc: MemoryError, *, stored: bool) -> None:
        task_ready(self)
        if stored:
            self.acknowledge()
            self.send_event("task-failed", exception=repr(exc), traceback="")
        else:
            # It had not even memory to say so: as if its process had died.
            self.reject(requeue=True)

    def terminate(self, *_: Any, **__: Any) -> None:
        """Cancel the task as everybody else does: a signal could hit the next task of its process."""
        self._backend.bury(self.id)

    @of_request
    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Interrupt the task for the worker's own reasons; the broker delivers its message again.

        Nothing is stored: the next run will.
        """
        if self.time_start:
            try:
                self._backend.give_back(self.id)
            except Exception as exc:
                _logger.warning(
                    "Task %s[%s] is interrupted, which counts as an attempt: %s", self.name, self.id, exc
                )
        super().cancel(pool, signal, emit_retry=emit_retry and not self.task.acks_late)


def _time(text: Any) -> datetime:
    """Return the time that a header says. Celery's own parser is written in Python, and slower than all the rest.

    Raises:
        AttributeError, TypeError, ValueError: it is none.
    """
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return _slow_time(text)
