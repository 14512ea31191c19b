"""The clock of a pool's process: says STARTED of what takes its time, and stops what is cancelled.

How it works: one daemon thread per process, started in the child by its first task: a thread would not survive
the fork. Arming it for a task costs a few attribute assignments; a task that ends within `started_after` costs no
more, and while nothing runs the thread sleeps. It stores STARTED, then looks every `cancel_check_interval` for
the tombstone of the task that runs now. Having found it, it sends the process a signal, whose handler raises
`TaskCancelled` in the main thread, where the task is; a coroutine is cancelled instead (`loops.py`). A task that
has not ended `cancel_grace` later (it swallows the exception, or is deep in C code) is ended with its process:
the broker delivers its message again, which then meets the tombstone and is REVOKED.

No other task is ever hit: the handler runs in the thread that arms and disarms, and raises only in the run that
was found cancelled; the kill happens under a lock that the end of a run takes too.

Only pools of processes have a clock. With the pools `solo` and `threads`, a cancelled task does not start, and
one that runs ends where it calls `raise_if_cancelled`; STARTED is never stored there.

What belongs here: what happens beside a running task. What happens before and after it is in `task.py`.
"""

import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from billiard.process import current_process
from celery._state import get_current_task

from async_celery.worker.loops import interrupt
from async_celery.worker.policy import Policy, policy_of
from async_celery.worker.subject import busy_with, current_subject
from async_celery.worker.waiting import current_job

if TYPE_CHECKING:
    from async_celery.worker.jobs import Job

_logger = logging.getLogger(__name__)

_NEVER = float("inf")
_IDLE_AFTER = 1.0  # s without a task, after which nothing looks whether there is one
# A real-time signal: billiard, Celery and most libraries leave these alone. macOS has none.
_SIGNAL: signal.Signals = getattr(signal, "SIGRTMIN", signal.SIGUSR2)


class TaskCancelled(BaseException):
    """Raised in a running task that was cancelled: clean up and let it pass. A coroutine meets `CancelledError`.

    Not an `Exception`, as `asyncio.CancelledError` is none: `except Exception` in a task must not swallow it.
    """


class _Run:
    """One run of a task, as the clock sees it; times are `time.monotonic`'s."""

    __slots__ = ("cancelled", "due", "over", "request", "shown", "subject", "task", "told")

    def __init__(self, task: Any, request: Any, due: float) -> None:
        self.task, self.request = task, request
        self.subject = current_subject()  # for the clock's thread
        self.due = due  # when it is looked at next
        self.shown = False  # STARTED is stored
        self.cancelled = False  # the tombstone was seen
        self.told = False  # TaskCancelled was raised
        self.over = False  # the body has ended


class Clock:
    """Watches the one task that this process runs."""

    def __init__(self, policy: Policy) -> None:
        """Start the thread. Call it in the main thread of a process that runs tasks there."""
        self._policy = policy
        self._run: _Run | None = None
        self._last_due = 0.0
        self._wakes_at = _NEVER
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._main = threading.main_thread().ident
        signal.signal(_SIGNAL, self._on_signal)
        threading.Thread(target=self._watch, name="async-celery-clock", daemon=True).start()

    @property
    def armed(self) -> bool:
        """Whether a run is being watched."""
        return self._run is not None

    def arm(self, task: Any, request: Any) -> None:
        """Watch the run that begins now."""
        due = time.monotonic() + self._policy.started_after
        self._last_due = due
        self._run = _Run(task, request, due)
        # Read after the assignment, as the thread assigns before it reads: one of them sees the other.
        if self._wakes_at > due:
            self._woken.set()

    def disarm(self) -> None:
        """Watch it no more: from here on nothing is raised in it, and nobody kills its process."""
        run = self._run
        if run is not None:
            run.over = True
            with self._lock:
                self._run = None

    def _on_signal(self, *_: object) -> None:
        run = self._run
        if run is not None and run.cancelled and not run.over and not run.told:
            run.told = True
            interrupt(TaskCancelled(f"task {run.request.id} was cancelled"))

    def _watch(self) -> None:
        while True:
            run = self._run
            self._wakes_at = due = self._next_look(run)
            if self._run is not run:
                continue
            self._woken.wait(None if due == _NEVER else max(0.0, due - time.monotonic()))
            self._woken.clear()
            if run is not None and self._run is run and time.monotonic() >= run.due:
                with busy_with(run.subject):
                    self._attend(run)

    def _next_look(self, run: _Run | None) -> float:
        if run is not None:
            return run.due
        # Between two short tasks. Were the thread asleep until the next one wakes it, each would.
        now = time.monotonic()
        return now + self._policy.started_after if now < self._last_due + _IDLE_AFTER else _NEVER

    def _attend(self, run: _Run) -> None:
        policy = self._policy
        try:
            if run.cancelled:
                self._end_process(run)
            elif not run.shown:
                run.shown = True
                run.request.worker_pid = os.getpid()
                run.task.backend.store_started(run.request)
            elif run.task.backend.is_revoked(run.request.id, run.request.root_id):
                self._tell(run)
        except Exception as exc:
            # The result backend is away. The task is not: ask again.
            _logger.warning("Task %s[%s] could not be looked up: %s", run.task.name, run.request.id, exc)
        run.due = time.monotonic() + (policy.cancel_grace if run.cancelled else policy.cancel_check_interval)

    def _tell(self, run: _Run) -> None:
        with self._lock:
            if self._run is run and self._main is not None:
                run.cancelled = True
                # To the thread, not the process: this interrupts what the task waits for.
                signal.pthread_kill(self._main, _SIGNAL)

    def _end_process(self, run: _Run) -> None:
        with self._lock:
            if self._run is run:
                _logger.error(
                    "Task %s[%s] did not end within %g s of being cancelled: its process is killed",
                    run.task.name,
                    run.request.id,
                    self._policy.cancel_grace,
                )
                os.kill(os.getpid(), signal.SIGKILL)


# A process has one main thread, and so one clock.
_clock: Clock | None = None


def clock_for(app: Any) -> "Clock | Job | None":
    """Return what watches the task that runs here; None where nothing can.

    With the pool `asyncio` it is the task's job; in a pool's process its clock, made for the first task there.
    """
    global _clock
    if (job := current_job()) is not None:
        return job
    if _clock is None and current_process().name != "MainProcess":
        _clock = Clock(policy_of(app))
    return _clock


def raise_if_cancelled() -> None:
    """End the running task if it was cancelled; for tasks that work in steps.

    Asks Redis at most once per `cancel_check_interval`, so it may be called often. Does nothing outside a task.

    Raises:
        TaskCancelled: let it pass.
    """
    task: Any = get_current_task()
    if task is None or task.request.id is None:
        return
    request, now = task.request, time.monotonic()
    if now < (request.get("cancel_check_due") or 0):
        return
    request.cancel_check_due = now + policy_of(task.app).cancel_check_interval
    if task.backend.is_revoked(request.id, request.root_id):
        raise TaskCancelled(f"task {request.id} was cancelled")
