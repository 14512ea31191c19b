"""ReliableTask: what every task does before its body, and how one that is cancelled ends.

How it works: Celery runs a task through its tracer, which it puts on the task as `__trace__`. `ReliableTask` puts
a guard around it, so that a task's own `before_start` and `__call__` stay what they are. The guard asks the
result backend about the task, in one round trip. What has finished is acknowledged and not run again; what is
cancelled is stored as REVOKED; what has begun too often, because it kills its processes, is stored as a FAILURE
and becomes a dead letter. Anything else runs, watched by the clock.

While Redis is away the guard waits for it, as the storing of results does (`result_backend_always_retry`): a task
that may be cancelled does not run. Where its soft time limit ends the wait, the message goes back to its queue.

How an attempt is counted: a message that the broker delivers again was begun before, or at least given to a
worker; its start counts in Redis. The first start costs no write. So a task whose first delivery ended before
its start has one attempt less. A task that puts itself off (`Reject` with `requeue`) gives the run back.

What belongs here: the two ends of a run. What happens in between is in `clock.py`, what the main process makes of
it in `request.py`.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Task, states
from celery.app.task import Context, get_actual_ignore_result  # type: ignore[attr-defined]  # older stubs
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from async_celery.worker.clock import TaskCancelled, clock_for
from async_celery.worker.coroutines import make_blocking, runs_coroutine
from async_celery.worker.observer import End, observer_of
from async_celery.worker.policy import policy_of
from async_celery.worker.subject import busy_with, subject_of_request
from async_celery.worker.tracing import tracer_of
from async_celery.worker.waiting import current_job

_logger = logging.getLogger(__name__)

REVOKED_AS = "revoked_as"
"""In a request, why the main process found the task revoked, which it could not store."""

Tracer = Callable[[str, Any, Any, dict[str, Any]], Any]


class WorkerLost(Exception):  # noqa: N818 (the name that clients read)
    """A task's processes died, again and again, while it ran."""


class Revoked(Ignore):
    """Told to the main process: the task was cancelled, and REVOKED is stored."""


class GivenUp(Reject):
    """Told to the main process: FAILURE is stored; the message is a dead letter."""

    @property
    def cause(self) -> str:
        """The stored exception's class, by its name."""
        return str(self.args[0]).partition(":")[0]


class ReliableTask(Task[Any, Any]):
    """The base class of all tasks of an app that `install` was called on. Their bodies may be `async def`."""

    abstract = True
    Request = "async_celery.worker.request:ReliableRequest"
    # The clock stores STARTED, and not of every task.
    track_started = False

    _guarded: Tracer | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        # Each task is made as a class of its own.
        super().__init_subclass__(**options)
        make_blocking(cls)

    @property
    def __trace__(self) -> Tracer | None:
        """Celery's tracer of this task, guarded and observed."""
        return self._guarded

    @__trace__.setter
    def __trace__(self, tracer: Tracer | None) -> None:
        self._guarded = None if tracer is None else partial(self._observed, tracer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body; in a worker's process under the eyes of the clock.

        Raises:
            EncodeError: what it returned cannot be stored. Celery finds out when it has passed it on already.
        """
        watch, request = clock_for(self.app), self.request
        if request.called_directly or request.is_eager or (watch is not None and watch.armed):
            return super().__call__(*args, **kwargs)
        if watch is not None:
            watch.arm(self, request)
        try:
            if (job := current_job()) is None or runs_coroutine(self.run):
                result = super().__call__(*args, **kwargs)
            else:
                result = job.call_body(partial(super().__call__, *args, **kwargs))
        finally:
            if watch is not None:
                watch.disarm()
        if (request.chain or request.callbacks) and not get_actual_ignore_result(self, request):
            backend: Any = self.backend
            backend.check_result(result)
        return result

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Send the task; also a retry of it. `countdown` is rounded up to whole seconds.

        Delayed delivery counts whole seconds, and Celery raises for less than one.
        """
        if options.get("countdown"):
            options["countdown"] = ceil(options["countdown"])
        return super().apply_async(*args, **options)

    def retry(self, *args: Any, **options: Any) -> Any:
        """Send the task again, as Celery does; where the broker does not take that, give the message back.

        Celery would end the task as a failure.
        """
        try:
            return super().retry(*args, **options)
        except Reject as exc:
            (reason, _) = exc.args
            raise Reject(reason, requeue=isinstance(reason, OperationalError)) from exc

    def _observed(self, tracer: Tracer, uuid: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Any:
        """Run the guard, and tell how it ended. Returns what the tracer does."""
        spans = tracer_of(self.app)
        if spans is None:
            outcome = self._guard(tracer, uuid, args, kwargs, request)
            end, error = _end_of(outcome)
        else:
            with spans.processing(self.name, request) as tell_span:
                outcome = self._guard(tracer, uuid, args, kwargs, request)
                end, error = _end_of(outcome)
                tell_span(end, error)
        if end is not End.REVOKED:
            observer_of(self.app).message_ended(self.name, request, end, error)
        return outcome

    def _guard(self, tracer: Tracer, uuid: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Any:
        """Run the tracer, if this task may begin. Returns what the tracer does."""
        with busy_with(subject_of_request(request)):
            return self._begin(tracer, uuid, args, kwargs, request)

    def _begin(self, tracer: Tracer, uuid: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Any:
        if (job := current_job()) is not None and job.has_run:
            # It has begun before, on the direct way.
            return self._run(tracer, uuid, args, kwargs, request)
        backend: Any = self.backend
        redelivered = bool((request.get("delivery_info") or {}).get("redelivered"))
        retries = request.get("retries") or 0
        asked = time.monotonic()
        try:
            beginning = backend.begin(uuid, request.get("root_id"), redelivered=redelivered, retried=retries > 0)
        except Exception as exc:
            # The time limit counts while the guard waits.
            passes = isinstance(exc, SoftTimeLimitExceeded) or backend.exception_safe_to_retry(exc)
            where = "back to its queue" if passes else "to the dead letters"
            _logger.warning("Task %s[%s] goes %s: the result backend says %r", self.name, uuid, where, exc)
            return _outcome(Reject(f"the result backend says {exc!r}", requeue=passes))
        if (spans := tracer_of(self.app)) is not None:
            spans.asked("look up task", time.monotonic() - asked)
        # Until it begins: this run is none yet.
        request["redeliveries"] = beginning.redeliveries - 1
        if beginning.finished:
            return self._follow_up(uuid, args, kwargs, request)
        if beginning.revoked or request.get(REVOKED_AS):
            return self._revoke(uuid, args, kwargs, request, request.get(REVOKED_AS) or "revoked")
        if (runs := retries + beginning.redeliveries) >= policy_of(self.app).max_attempts:
            return self._give_up(uuid, args, kwargs, request, runs, beginning.redeliveries)
        request["redeliveries"] = beginning.redeliveries
        request["started_at"] = time.time()
        observer_of(self.app).run_began(self.name, request)
        return self._run(tracer, uuid, args, kwargs, request)

    def _run(self, tracer: Tracer, uuid: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Any:
        try:
            outcome = tracer(uuid, args, kwargs, request)
        except TaskCancelled:
            # It may have been raised just before the body's own end.
            if (watch := clock_for(self.app)) is not None:
                watch.disarm()
            return self._revoke(uuid, args, kwargs, request, "terminated")
        info = outcome.info
        if info is not None and info.state == states.REJECTED and info.retval.requeue:
            self._give_back(uuid)
        return outcome

    def stop_waiting(self, request: Context) -> tuple[int, Any, float]:
        """Store a running task as cancelled, although it has not ended; return what Celery's tracer would."""
        backend: Any = self.backend
        backend.mark_as_revoked(request.id, "terminated", request=request, store_result=self._stores(request))
        return 1, _outcome(Revoked("terminated")).retval, 0.0

    def _give_back(self, uuid: str) -> None:
        """Do not count a run that the task itself has put off: nothing died."""
        backend: Any = self.backend
        try:
            backend.give_back(uuid)
        except Exception as exc:
            _logger.warning("Task %s[%s] goes back, which counts as an attempt: %s", self.name, uuid, exc)

    def _follow_up(self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Any:
        _logger.info("Task %s[%s] has finished before and does not run again", self.name, uuid)
        backend: Any = self.backend
        backend.follow_up(self._context(args, kwargs, request))
        return _outcome(Ignore())

    def _revoke(self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any], reason: str) -> Any:
        _logger.info("Task %s[%s] was cancelled: %s", self.name, uuid, reason)
        context = self._context(args, kwargs, request)
        self.backend.mark_as_revoked(uuid, reason, request=context, store_result=self._stores(context))
        return _outcome(Revoked(reason))

    def _give_up(self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any], runs: int, lost: int) -> Any:
        exc: Exception
        most = policy_of(self.app).max_attempts
        if lost:
            exc = WorkerLost(
                f"its worker died {lost} times (or lost its servers) in {runs} runs, and no more than {most} are "
                "begun: find in the worker's log what kills it (memory, a crash in C code, a kill), then send it "
                "again"
            )
        else:
            exc = MaxRetriesExceededError(
                f"it has run {runs} times and wants to run again, and no more than {most} runs are begun: give "
                "the task a smaller max_retries, or the worker's Policy more max_attempts"
            )
        _logger.error("Task %s[%s] is given up: %s", self.name, uuid, exc)
        context = self._context(args, kwargs, request)
        self.backend.mark_as_failure(uuid, exc, request=context, store_result=self._stores(context))
        return _outcome(GivenUp(f"{type(exc).__name__}: {exc}", requeue=False))

    def _context(self, args: Any, kwargs: Any, request: dict[str, Any]) -> Context:
        return Context(request, args=args, kwargs=kwargs, called_directly=False)

    def _stores(self, context: Context) -> bool:
        return not get_actual_ignore_result(self, context) or self.store_errors_even_if_ignored


def _end_of(outcome: Any) -> tuple[End, str | None]:
    """Return how what the tracer has returned is counted, and of a failure, the name of its exception."""
    if outcome.info is None:
        return End.SUCCESS, None
    match outcome.info.retval:
        case Revoked():
            return End.REVOKED, None
        case GivenUp(cause=cause):
            return End.FAILURE, cause
    match outcome.info.state:
        case states.RETRY:
            return End.RETRY, None
        case states.REJECTED:
            return End.REJECTED, None
        case states.IGNORED:
            return End.IGNORED, None
    return End.FAILURE, type(outcome.info.retval).__name__


def _outcome(exc: Ignore | Reject) -> Any:
    """Return what the tracer returns for a task that raises `exc`."""
    try:
        raise exc
    except (Ignore, Reject):
        state = states.REJECTED if isinstance(exc, Reject) else states.IGNORED
        return trace_ok_t(ExceptionInfo(internal=True), TraceInfo(state, exc), 0.0, None)
