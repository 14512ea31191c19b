"""Spans for OpenTelemetry: `publish <queue>`, `process <task>`, `wait result`, and what is asked of Redis.

How it works: `OpenTelemetryTracer` makes them with OpenTelemetry's API; where they go, and which are kept, is
its provider's, so the program's. Messages carry `traceparent` and `tracestate` (W3C Trace Context). Spans are
named and described by OpenTelemetry's semantic conventions for messaging; of a task they hold its name and ids,
never its arguments, its result, or an exception's text. A sending that belongs to no span here goes on with the
trace that its headers name.

What belongs here: all that knows OpenTelemetry. It comes with the extra `async-celery[otel]`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from async_celery.spans import Sending
from async_celery.topology import without_delay

_propagator = TraceContextTextMapPropagator()

_FIELDS = tuple(sorted(_propagator.fields))

_FAILURES = ("failure", "rejected")
"""Ends of a delivery that are errors; a retry, say, is none."""

Value = str | int
"""Of an attribute."""


class OpenTelemetryTracer:
    """Implements `spans.Tracer`. One per process; it may be made before the provider is set."""

    def __init__(self, *, system: str = "rabbitmq", provider: TracerProvider | None = None) -> None:
        """Take where spans go.

        Args:
            system: the broker, as OpenTelemetry calls it (`messaging.system`).
            provider: the process' own when None.
        """
        self._tracer = trace.get_tracer("async_celery", _version(), provider)
        self._system = system

    @contextmanager
    def sending(self, sending: Sending) -> Iterator[Mapping[str, str]]:
        """See `Tracer`."""
        parent = None if _is_inside_a_span() else _extracted(sending.headers)
        attributes = self._attributes("publish", "send", sending.task, sending.task_id, sending.root_id)
        if sending.queue is not None:
            attributes["messaging.destination.name"] = sending.queue
        if sending.messages > 1:
            attributes["messaging.batch.message_count"] = sending.messages
        name = "publish" if sending.queue is None else f"publish {sending.queue}"
        with self._span(name, SpanKind.PRODUCER, attributes, parent):
            headers: dict[str, str] = {}
            _propagator.inject(headers)
            yield headers

    @contextmanager
    def waiting(self, task: str | None, task_id: str) -> Iterator[None]:
        """See `Tracer`."""
        attributes: dict[str, Value] = {"messaging.message.id": task_id}
        if task is not None:
            attributes["celery.task.name"] = task
        with self._span("wait result", SpanKind.INTERNAL, attributes):
            yield

    @contextmanager
    def processing(self, task: str, request: Mapping[str, Any]) -> Iterator[Callable[[str, str | None], None]]:
        """See `Tracer`."""
        task_id = str(request.get("id"))
        attributes = self._attributes("process", "process", task, task_id, str(request.get("root_id") or task_id))
        routing_key = (request.get("delivery_info") or {}).get("routing_key")
        if isinstance(routing_key, str):
            attributes["messaging.destination.name"] = without_delay(routing_key)
        if isinstance(retries := request.get("retries"), int):
            attributes["celery.task.retries"] = retries
        with self._span(f"process {task}", SpanKind.CONSUMER, attributes, _extracted(request)) as span:

            def end(state: str, error: str | None) -> None:
                span.set_attribute("celery.task.state", state)
                if state in _FAILURES:
                    _fail(span, error or state)

            yield end

    def asked(self, what: str, seconds: float) -> None:
        """See `Tracer`."""
        if not _is_inside_a_span():
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            what,
            kind=SpanKind.CLIENT,
            attributes={"db.system.name": "redis"},
            start_time=now - int(seconds * 1e9),
        )
        span.end(now)

    def _attributes(self, operation: str, kind: str, task: str, task_id: str, root_id: str) -> dict[str, Value]:
        return {
            "messaging.system": self._system,
            "messaging.operation.name": operation,
            "messaging.operation.type": kind,
            "messaging.message.id": task_id,
            "messaging.message.conversation_id": root_id,
            "celery.task.name": task,
        }

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: Mapping[str, Value], parent: Context | None = None
    ) -> Iterator[Span]:
        # An exception's text may hold anything: its class is all that is kept of it.
        with self._tracer.start_as_current_span(
            name,
            parent,
            kind,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as exc:
                _fail(span, type(exc).__name__)
                raise


def _is_inside_a_span() -> bool:
    return trace.get_current_span().get_span_context().is_valid


def _extracted(headers: Mapping[str, Any]) -> Context:
    """Return the context that a message's headers name; anybody may have written them."""
    return _propagator.extract({name: value for name in _FIELDS if isinstance(value := headers.get(name), str)})


def _fail(span: Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(StatusCode.ERROR)


def _version() -> str | None:
    try:
        return version("async-celery")
    except PackageNotFoundError:  # it is on the path, not installed
        return None
