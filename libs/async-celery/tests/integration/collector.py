"""A collector of OpenTelemetry's: takes what processes send over OTLP/HTTP as protobuf, and keeps the spans.

How it works: an HTTP server of the standard library, in a thread. It can be told to refuse, or to say nothing.

What belongs here: receiving, and finding spans. What spans must be there, the tests say.
"""

import gzip
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

NO_PARENT = ""
CLIENT = "c" * 16
"""The span of a client outside, which names its trace and never sends it."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One span; ids in hexadecimal digits, times in s since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    service: str
    attributes: Mapping[str, Any]
    failed: bool
    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.service}: {self.name} [{self.span_id} in {self.parent_id or 'nothing'}]"


class Collector:
    """What has come so far."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.status = 200
        self.silent = threading.Event()  # set: it takes requests and does not answer
        self.asked = 0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked += 1
                if collector.silent.is_set():
                    collector.closed.wait(60)
                    return
                if collector.status == 200:
                    assert self.path == "/v1/traces", self.path
                    assert self.headers["Content-Type"] == "application/x-protobuf"
                    packed = self.headers["Content-Encoding"] == "gzip"
                    collector.bodies.append(gzip.decompress(body) if packed else body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Span]:
        return [span for body in list(self.bodies) for span in _spans(body)]

    def trace(self, trace_id: str, *, within: float = 20) -> list[Span]:
        """Wait until each span's parent is there too, which another process may send later; return them all."""
        deadline = time.monotonic() + within
        while True:
            spans = [span for span in self.spans() if span.trace_id == trace_id]
            there = {NO_PARENT, CLIENT, *(span.span_id for span in spans)}
            orphans = [span for span in spans if span.parent_id not in there]
            if not orphans:
                return spans
            assert time.monotonic() < deadline, f"no parents within {within:g} s of:\n" + "\n".join(
                map(str, orphans)
            )
            time.sleep(0.05)

    def wait_for(self, count: int, *, within: float = 20, **wanted: object) -> list[Span]:
        """Wait until so many spans with these fields, or attributes (dots as `__`), are there; return them."""
        deadline = time.monotonic() + within
        while len(found := [span for span in self.spans() if _has(span, wanted)]) < count:
            assert time.monotonic() < deadline, (
                f"{len(found)} instead of {count} spans {wanted} within {within:g} s; there are:\n"
                + "\n".join(map(str, self.spans()[-50:]))
            )
            time.sleep(0.05)
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


def _has(span: Span, wanted: Mapping[str, object]) -> bool:
    return all(
        (getattr(span, name) if hasattr(span, name) else span.attributes.get(name.replace("__", "."))) == value
        for name, value in wanted.items()
    )


def _spans(body: bytes) -> Iterator[Span]:
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    for resource in request.resource_spans:
        about = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                assert not span.events, "an event could hold an exception's text"
                yield Span(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    name=span.name,
                    kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    service=str(about["service.name"]),
                    attributes=_attributes(span.attributes),
                    failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    start=span.start_time_unix_nano / 1e9,
                    end=span.end_time_unix_nano / 1e9,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
