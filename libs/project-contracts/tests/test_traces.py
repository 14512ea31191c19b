"""When traces are wanted; what a `traceparent` says; that a collector's faults hold nobody up."""

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from project_contracts import otlp, traces

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def looked() -> Iterator[None]:
    yield
    traces.look_with(dict)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
    ],
)
def test_when_traces_are_wanted(environ: dict[str, str], wanted: bool) -> None:
    assert traces.are_wanted(environ) is wanted


def test_a_traceparent_names_trace_and_span() -> None:
    assert traces.parse(TRACEPARENT) == traces.Trace(TRACE_ID, SPAN_ID)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        TRACEPARENT.encode(),
        "",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        f"{TRACEPARENT}\n",
        f"ff{TRACEPARENT[2:]}",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
    ],
)
def test_whatever_else_names_none(value: object) -> None:
    assert traces.parse(value) is None


def test_while_traces_are_off_there_is_no_current_one() -> None:
    assert (traces.current(), dict(traces.headers())) == (None, {})


def test_the_current_span_is_looked_up(looked: None) -> None:
    traces.look_with(otlp._headers)
    assert traces.current() is None
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("here") as span:
        context = span.get_span_context()
        assert traces.current() == traces.Trace(f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert traces.current() is None


def test_an_outage_is_told_once_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = otlp.Exporter()
    answers = iter("FFSSFS")
    results = {"F": SpanExportResult.FAILURE, "S": SpanExportResult.SUCCESS}
    monkeypatch.setattr(exporter._exporter, "export", lambda _: results[next(answers)])
    with caplog.at_level(logging.INFO, "project_contracts.otlp"):
        for _ in range(6):
            exporter.export([])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING", "INFO"]


PROGRAM = """
import time
from opentelemetry import trace
from project_contracts import otlp
sender = otlp.start({"service.name": "test"})
for n in range(5000):
    trace.get_tracer("test").start_span("work").end()
began = time.monotonic()
sender.stop()
print(time.monotonic() - began)
"""


def test_a_silent_collector_does_not_hold_up_the_end_of_a_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert float(done.stdout) < 8  # s; 4 s, and what a busy machine adds
    assert done.stderr.count("\n") <= 1  # the last spans are lost, which is said once
