"""OTLP: how a process sends its spans to a collector, and what it says when it cannot.

How it works: `start` sets OpenTelemetry's provider for this process, so that every library's spans go one way:
into a bounded queue, and from there, by a thread, in batches to the collector, over HTTP with protobuf. Spans
are lost rather than waited for: a full queue drops them, and `stop` gives the thread a few seconds for the last
ones. What OpenTelemetry logs about each attempt is left out; one line says that spans are lost, another that
they arrive again.

All else is said by OpenTelemetry's own variables: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
OTEL_TRACES_SAMPLER, OTEL_BSP_*, OTEL_EXPORTER_OTLP_*. A process that traces has no threads yet when it is
forked: call `start` after it.

What belongs here: the way out. Spans are made where things happen.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from project_contracts import traces

_logger = logging.getLogger(__name__)

_LAST_SPANS = 4.0
"""s; what the last spans may take at the end of a process, if the collector took those before."""

_NO_CHANCE = 0.2  # s

_TALKATIVE = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal")
"""Loggers with a line, or several, for each attempt and each span that is lost."""

_propagator = TraceContextTextMapPropagator()


class Exporter(SpanExporter):
    """Sends batches of spans, from one thread; says once that they are lost, once that they are not any more."""

    def __init__(self) -> None:
        """Read OTEL_EXPORTER_OTLP_*. Opens no connection."""
        self._exporter = OTLPSpanExporter()
        self.is_losing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send these."""
        result = self._exporter.export(spans)
        is_losing = result is not SpanExportResult.SUCCESS
        if is_losing and not self.is_losing:
            _logger.warning("spans are lost until the collector takes them again; nothing else waits for it")
        elif self.is_losing and not is_losing:
            _logger.info("spans are taken again")
        self.is_losing = is_losing
        return result

    def shutdown(self) -> None:
        """Send no more; an attempt to come is given up."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # it has no annotations

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: nothing waits here."""
        return self._exporter.force_flush(timeout_millis)


class Sender:
    """Sends the spans of this process; made by `start`."""

    def __init__(self, exporter: Exporter, processor: BatchSpanProcessor) -> None:
        self._exporter = exporter
        self._processor = processor

    def stop(self) -> None:
        """Send the last spans, as far as that takes no more than some seconds."""
        # It may wait for the collector, for half a minute; a thread can be left behind.
        stop: Callable[[], object] = self._processor.shutdown  # which has no annotations
        sending = threading.Thread(target=stop, name="last spans", daemon=True)
        sending.start()
        sending.join(_NO_CHANCE if self._exporter.is_losing else _LAST_SPANS)
        if sending.is_alive():
            _logger.warning("the last spans of this process are lost: the collector does not take them")
            self._exporter.shutdown()


def start(service: Mapping[str, str]) -> Sender:
    """Have all spans of this process sent from now on. Once per process.

    Args:
        service: what it is, as attributes of OpenTelemetry's resource; the environment's win.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    resource = Resource.create(dict(service)).merge(OTELResourceDetector().detect())
    exporter = Exporter()
    processor = BatchSpanProcessor(exporter)
    # `stop` is called, and waits no longer than it should.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    traces.look_with(_headers)
    return Sender(exporter, processor)


def _headers() -> Mapping[str, str]:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier
