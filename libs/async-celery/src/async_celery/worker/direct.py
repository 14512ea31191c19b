"""The direct way: a plain `async def` task from its message to its stored result, as asyncio code.

How it works: with the pool `asyncio`, a message's way leads through Celery's strategy, its tracer, and a
greenlet that these run in (`jobs.py`). Most messages need nothing of what is decided there: no workflow around
the task, no time to wait for, no handler or signal of the application's, and the task returns. For these, the
same is done here in fewer steps: the same request and states for remote control, the same questions to Redis, the
same context for the body, the same result, history, metrics and lines in the log.

Whatever turns out otherwise on the way (it was cancelled, has run before, Redis does not answer, the body raises,
the result cannot be stored) is left to Celery's code: the job takes the long way from there, and a body that has
run does not run again: what it returned or raised is said once more (`Job.replay`). So each rule about failures
is in one place, and that is not here.

What belongs here: which messages are plain, and what is done for them. What a rule means is in the modules that
the long way leads through; each step here says which one it stands for.
"""

import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from celery import signals
from celery._state import _task_stack  # type: ignore[attr-defined]  # older stubs
from celery.app import trace
from celery.app.task import Context, get_actual_ignore_result  # type: ignore[attr-defined]  # older stubs
from celery.loaders.base import BaseLoader
from celery.utils.saferepr import saferepr
from celery.worker import state, strategy
from celery.worker.request import create_request_cls  # type: ignore[attr-defined]  # older stubs
from kombu.utils.imports import symbol_by_name

from async_celery.worker.coroutines import body_of
from async_celery.worker.observer import End, observer_of
from async_celery.worker.subject import busy_with, subject_of_request
from async_celery.worker.task import REVOKED_AS, ReliableTask
from async_celery.worker.tracing import tracer_of

Body = Callable[..., Coroutine[Any, Any, Any]]

_RECEIVERS = tuple(
    signal.receivers
    for signal in (signals.task_received, signals.task_prerun, signals.task_postrun, signals.task_success)
)
_HANDLERS = ("before_start", "on_success", "after_return")
_HOOKS = ("on_task_init", "on_process_cleanup")
_UNKNOWN: Any = object()
_tracer: Any = trace  # its stubs know little of it


class _Plain:
    """A task of which messages can go the direct way."""

    __slots__ = ("body", "make_request", "task")

    def __init__(self, task: Any, body: Body, consumer: Any) -> None:
        self.task, self.body = task, body
        # As Celery's strategy does.
        self.make_request: Callable[..., Any] = create_request_cls(
            symbol_by_name(task.Request),
            task,
            consumer.pool,
            consumer.hostname,
            consumer.event_dispatcher,
            app=consumer.app,
        )


class Entrance:
    """Sends a consumer's messages the direct way. Each connection has its own, as it has Celery's strategies."""

    def __init__(self, consumer: Any) -> None:
        """Look at nothing yet: tasks are looked at with their first message."""
        self._consumer, self._app, self._pool = consumer, consumer.app, consumer.pool
        self._plain: dict[str, _Plain | None] = {}
        self._is_open = not any(
            getattr(type(self._app.loader), hook) is not getattr(BaseLoader, hook) for hook in _HOOKS
        )
        self._logs = strategy.logger.isEnabledFor(logging.INFO)

    def take(self, message: Any) -> bool:
        """Run a message's task, if it is a plain one; return whether it is.

        Args:
            message: kombu's; it can become a task (`consumer.py`).
        """
        headers = message.headers
        name = headers["task"]
        plain = self._plain.get(name, _UNKNOWN)
        if plain is _UNKNOWN:
            plain = self._plain[name] = self._look_at(self._app.tasks[name])
        if plain is None or not self._is_plain(message, headers, name):
            return False
        consumer = self._consumer
        request = plain.make_request(
            message,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            app=self._app,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            task=plain.task,
            connection_errors=consumer.connection_errors,
            body=message.body,
            headers=headers,
            decoded=False,
            utc=True,
        )
        if self._logs:
            said = {
                "id": request.id,
                "name": request.name,
                "args": request.argsrepr,
                "kwargs": request.kwargsrepr,
                "eta": None,
            }
            strategy.logger.info(_tracer.LOG_RECEIVED, said, extra={"data": said})
        if (expires := request.expires) and datetime.now(expires.tzinfo) > expires and request.revoked():
            return True
        state.task_reserved(request)
        self._pool.run_directly(request, plain.body)
        return True

    def _look_at(self, task: Any) -> _Plain | None:
        body = body_of(task)
        if (
            body is None
            or not isinstance(task, ReliableTask)
            or type(task).__call__ is not ReliableTask.__call__
            or not task.acks_late
            or task.track_started
            or any(_tracer.task_has_custom(task, handler) for handler in _HANDLERS)
        ):
            return None
        return _Plain(task, body, self._consumer)

    def _is_plain(self, message: Any, headers: Mapping[str, Any], name: str) -> bool:
        consumer = self._consumer
        _, _, embed = message.payload
        get = headers.get
        return not (
            not self._is_open
            or message.delivery_info["redelivered"]
            # What asks for more than to run the task, and what comes after it.
            or get("eta")
            or get("retries")
            or get("group")
            or get("stamped_headers")
            or (embed and (embed.get("callbacks") or embed.get("chain") or embed.get("chord")))
            or headers["id"] in state.revoked
            or any(_RECEIVERS)
            or consumer.on_task_message  # with --autoscale
            or _has_events(consumer.event_dispatcher)
            or consumer.task_buckets[name]
            or not consumer._maximum_prefetch_restored
            or tracer_of(self._app) is not None
        )


def _has_events(dispatcher: Any) -> bool:
    """Return whether events of tasks are sent. Without -E, there are those of the worker alone."""
    return bool(dispatcher and dispatcher.enabled) and (not dispatcher.groups or "task" in dispatcher.groups)


_Context: Any = Context  # its stubs lack methods


class _Request(_Context):  # type: ignore[misc]  # see above
    """A task's request, which looks for headers of the application's own when it is asked for them."""

    __slots__ = ("_fields",)  # not among what the body has set

    def __init__(self, fields: dict[str, Any]) -> None:
        self.update(fields, called_directly=False)
        self._fields = fields

    @cached_property
    def headers(self) -> Any:
        """What Celery sets at once."""
        return self._get_custom_headers(self._fields)


class Returned(NamedTuple):
    """What Celery's tracer returns for a task that has returned."""

    failed: int
    shown: str | None
    runtime: float


async def run(job: Any, request: Any, body: Body, *, is_new: bool) -> Returned | None:
    """Run a plain message's task; return None where it goes the long way from here.

    Args:
        job: whose context this is called in.
        request: Celery's, of the message.
        body: the task's.
        is_new: whether Redis was asked about the task just now, and knows nothing.
    """
    task, headers = request.task, request.request_dict
    backend = task.backend
    began = time.monotonic()
    with busy_with(subject_of_request(headers)):
        # `ReliableTask._begin`
        if REVOKED_AS in headers:
            return None
        if not is_new:
            try:
                if not await backend.are_new([request]):
                    return None
            except Exception:
                return None  # there, it is asked for as long as it takes
        headers["redeliveries"] = 0
        headers["started_at"] = time.time()
        observer = observer_of(task.app)
        observer.run_began(task.name, headers)
        # Celery's tracer
        _, _, embed = request.body
        headers.update({"is_eager": False}, **embed or {})
        context = _Request(headers)
        _task_stack.push(task)
        task.request_stack.push(context)
        try:
            if not await _do(job, task, context, body):
                # What the body has set in its request belongs to how it goes on.
                headers.update(vars(context))
                return None
        finally:
            task.request_stack.pop()
            _task_stack.pop()
        runtime = time.monotonic() - began
        shown = _show(task, context, job.replay(), runtime)
        observer.message_ended(task.name, headers, End.SUCCESS)
    return Returned(0, shown, runtime)


def settle(request: Any, outcome: Any) -> None:
    """Acknowledge the message of a task that has ended on either way."""
    if type(outcome) is Returned:
        # As Celery's `on_success`, but for its list of what need not run again: Redis knows.
        state.task_ready(request)
        request.acknowledge()
    else:
        request.on_success(outcome)


async def _do(job: Any, task: Any, context: Context, body: Body) -> bool:
    """Run the body, store what it returns; return whether both were done."""
    job.arm(task, context)
    try:
        result = await job.run_body(body, context.args, context.kwargs)
    except BaseException:  # job.replay() raises it
        return False
    finally:
        job.disarm()
    if not get_actual_ignore_result(task, context):
        try:
            await task.backend.store_success(context.id, result, context)
        except Exception:
            return False  # there, it is tried again, or is a failure
    return True


def _show(task: Any, context: Context, result: Any, runtime: float) -> str | None:
    """Write the line of a task that has returned; return its result as text, if anyone reads it."""
    if not _tracer.logger.isEnabledFor(logging.INFO):
        return None
    shown = saferepr(result, task.resultrepr_maxsize)
    _tracer.info(
        _tracer.LOG_SUCCESS,
        {
            "id": context.id,
            "name": _tracer.get_task_name(context, task.name),
            "return_value": shown,
            "runtime": runtime,
            "args": context.get("argsrepr") or saferepr(context.args),
            "kwargs": context.get("kwargsrepr") or saferepr(context.kwargs),
        },
    )
    return shown
