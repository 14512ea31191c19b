"""ReliableRequest: what a worker's main process does with a message whose task has ended, well or not.

How it works: Celery makes one `Request` per message, of the class that the task names. This one adds when the
message came; it understands the outcomes of `task.py`, which are stored already; and it gives the attempt back of
a task that the worker itself interrupts, at its shutdown or when its connection to the broker is lost.

What belongs here: one message. What comes before a message is a request is in `consumer.py`.
"""

import logging
import time
from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # older stubs
from celery import signals
from celery.app.task import Context
from celery.exceptions import TimeLimitExceeded
from celery.worker.request import Request
from celery.worker.state import task_ready

from async_celery.worker.task import GivenUp, Revoked

_logger = logging.getLogger(__name__)


class ReliableRequest(Request):
    """One task message in the worker's main process."""

    # Celery's own, which its type stubs lack.
    _context: Context
    _request_dict: dict[str, Any]

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._request_dict["received_at"] = time.time()

    @property
    def _backend(self) -> Any:
        return self.task.backend

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Settle the message of a task that did not return; what `task.py` has stored is not stored again."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if isinstance(exc, Revoked):
            task_ready(self)
            self.acknowledge()
            terminated = str(exc) == "terminated"
            self.send_event("task-revoked", terminated=terminated, signum=None, expired=False)
            signals.task_revoked.send(
                sender=self.task, request=self._context, terminated=terminated, signum=None, expired=False
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
            super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

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
