"""What a client's spans say, and that headers by anybody do no harm. Across processes: project-api's tests."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from celery import chord, signature
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from async_celery import ResultTimeout, TaskFailed
from async_celery.spans import Sending
from async_celery.testing import FakeCelery
from async_celery.tracing import OpenTelemetryTracer
from async_celery.worker.publishing import with_stamps

TRACE_ID, SPAN_ID = "a" * 32, "b" * 16
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


class Traced:
    """A tracer, and the spans that it has ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = OpenTelemetryTracer(provider=self.provider)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def traced() -> Iterator[Traced]:
    made = Traced()
    yield made
    made.provider.shutdown()


def sending(**headers: Any) -> Sending:
    return Sending("add", "id-1", "root-1", "sums", 1, headers)


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else trace.format_span_id(span.parent.span_id)


async def test_a_client_traces_what_it_sends_and_waits_for(traced: Traced) -> None:
    async with FakeCelery(tracer=traced.tracer) as client:
        client.register("add", lambda x, y: x + y)
        handle = await client.send_task("add", (1, 2), queue="sums")
        assert await handle.result(timeout=5) == 3
    publish, wait = traced.spans["publish sums"], traced.spans["wait result"]
    assert (publish.kind, wait.kind) == (SpanKind.PRODUCER, SpanKind.INTERNAL)
    assert publish.attributes is not None
    assert publish.attributes["messaging.message.id"] == handle.id
    assert wait.attributes == {"messaging.message.id": handle.id, "celery.task.name": "add"}
    context = publish.context
    assert context is not None
    ids = f"{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}"
    assert client.sent[0].headers["traceparent"].startswith(f"00-{ids}-")


async def test_a_workflow_is_sent_in_one_span(traced: Traced) -> None:
    async with FakeCelery(tracer=traced.tracer) as client:
        header = [signature("add", (n, n), queue="sums") for n in range(3)]
        await client.submit(chord(header, signature("total", queue="sums")))
    publish = traced.spans["publish sums"]
    assert publish.attributes is not None
    assert publish.attributes["messaging.batch.message_count"] == 3
    assert publish.attributes["celery.task.name"] == "chord"


async def test_what_fails_is_told_by_its_class_alone(traced: Traced) -> None:
    def fail() -> None:
        raise ValueError("a secret")

    async with FakeCelery(tracer=traced.tracer) as client:
        client.register("fail", fail)
        with pytest.raises(TaskFailed):
            await (await client.send_task("fail", queue="sums")).result(timeout=5)
        wait = traced.spans["wait result"]
        assert (wait.status.status_code, wait.attributes and wait.attributes["error.type"]) == (
            StatusCode.ERROR,
            "TaskFailed",
        )
        assert "a secret" not in wait.to_json()
        with pytest.raises(ResultTimeout):
            await (await client.send_task("unknown", queue="sums")).result(timeout=0.01)
    late = traced.spans["wait result"]
    assert late.attributes is not None and late.attributes["error.type"] == "ResultTimeout"


def test_what_was_written_down_goes_on_with_its_trace(traced: Traced) -> None:
    with traced.tracer.sending(sending(traceparent=TRACEPARENT, tracestate="vendor=1")) as headers:
        pass
    assert headers["traceparent"].split("-")[1] == TRACE_ID
    assert headers["tracestate"] == "vendor=1"
    assert parent_of(traced.spans["publish sums"]) == SPAN_ID


def test_a_span_here_goes_before_what_was_written_down(traced: Traced) -> None:
    tracer = trace.get_tracer("test", tracer_provider=traced.provider)
    with tracer.start_as_current_span("here") as here:
        with traced.tracer.sending(sending(traceparent=TRACEPARENT)):
            pass
        assert parent_of(traced.spans["publish sums"]) == trace.format_span_id(here.get_span_context().span_id)


@pytest.mark.parametrize("traceparent", [None, 7, b"00", ["x"], "", "hello", f"ff{TRACEPARENT[2:]}"])
def test_headers_by_anybody_do_no_harm(traced: Traced, traceparent: object) -> None:
    request = {"id": "id-1", "traceparent": traceparent, "tracestate": 1, "retries": "x", "delivery_info": None}
    with traced.tracer.processing("add", request) as end:
        end("success", None)
    process = traced.spans["process add"]
    assert (process.parent, process.kind) == (None, SpanKind.CONSUMER)


@pytest.mark.parametrize(
    ("state", "error", "failed"),
    [
        ("success", None, False),
        ("retry", None, False),
        ("ignored", None, False),
        ("failure", "KeyError", True),
        ("rejected", None, True),
    ],
)
def test_how_a_delivery_ended(traced: Traced, state: str, error: str | None, failed: bool) -> None:
    request = {"id": "id-1", "root_id": "root-1", "traceparent": TRACEPARENT, "retries": 2}
    with traced.tracer.processing("add", request) as end:
        traced.tracer.asked("store result", 0.5)
        end(state, error)
    process, store = traced.spans["process add"], traced.spans["store result"]
    assert process.attributes is not None
    assert (process.attributes["celery.task.state"], process.attributes["celery.task.retries"]) == (state, 2)
    assert (process.status.status_code is StatusCode.ERROR) == failed
    assert process.attributes.get("error.type") == ((error or state) if failed else None)
    assert parent_of(process) == SPAN_ID
    assert store.parent == process.context
    assert store.start_time is not None and store.end_time is not None
    assert store.end_time - store.start_time == 500_000_000


def test_outside_of_a_task_nothing_is_told_of_redis(traced: Traced) -> None:
    traced.tracer.asked("store result", 0.5)
    assert traced.spans == {}


def test_what_is_cancelled_is_passed_on(traced: Traced) -> None:
    with pytest.raises(asyncio.CancelledError), traced.tracer.waiting(None, "id-1"):
        raise asyncio.CancelledError
    wait = traced.spans["wait result"]
    assert wait.attributes == {"messaging.message.id": "id-1", "error.type": "CancelledError"}


def test_a_worker_that_does_not_trace_passes_the_trace_on() -> None:
    """Outside of a task, a message's own headers are what it keeps."""
    assert with_stamps({}, {"traceparent": TRACEPARENT})["traceparent"] == TRACEPARENT
