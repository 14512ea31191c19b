"""ReliableRequest: what a worker's main process does with a message whose task has ended, well or not.

How it works: Celery makes one `Request` per message, of the class that the task names. This one adds when the
message came; it understands the outcomes of `task.py`, which are stored already; and it gives the attempt back of
a task that the worker itself interrupts, at its shutdown or when its connection to the broker is lost.

What belongs here: one message. What comes before a message is a request is in `consumer.py`.
"""

import logging
import time
from typing import Any

from celery import signals
from celery.worker.request import Request
from celery.worker.state import task_ready

from async_celery.worker.task import GivenUp, Revoked

_logger = logging.getLogger(__name__)


class ReliableRequest(Request):
    """One task message in the worker's main process."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._request_dict["received_at"] = time.time()

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Settle the message of a task that did not return; what `task.py` has stored is not stored again."""
        exc = getattr(exc_info.exception, "exc", exc_info.exception)
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
            self.send_event("task-failed", exception=exc.reason, traceback="")
        elif isinstance(exc, MemoryError):
            # Celery would raise it here, in a process that has memory.
            self._settle_out_of_memory(exc, stored=return_ok)
        else:
            super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _settle_out_of_memory(self, exc: MemoryError, *, stored: bool) -> None:
        task_ready(self)
        if stored:
            self.acknowledge()
            self.send_event("task-failed", exception=repr(exc), traceback="")
        else:
            # It had not even memory to say so: as if its process had died.
            self.reject(requeue=True)

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Cancel the task as everybody else does: a signal could hit the next task of its process."""
        self.task.backend.bury(self.id)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Interrupt the task for the worker's own reasons; the broker delivers its message again.

        Nothing is stored: the next run will.
        """
        if self.time_start:
            try:
                self.task.backend.give_back(self.id)
            except Exception as exc:
                _logger.warning("Task %s[%s] is interrupted, which counts as an attempt: %s", self.name, self.id, exc)
        super().cancel(pool, signal, emit_retry=emit_retry and not self.task.acks_late)
