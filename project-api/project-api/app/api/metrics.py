"""What is measured of requests (`http_*`), and `GET /metrics`, which shows all figures of the process.

How it works: `middleware.py` tells `HttpMetrics` of each request. It is counted under its path's template
(`routes.py`), so that no client can make up series. Prometheus asks for OpenMetrics and gets exemplars there: the
`trace_id` of one request in each bucket, by which its log lines are found; anybody else gets the plain text
format. An exemplar costs twice as much as counting, so a bucket takes a new one once a second. Writing some
thousand series takes tens of ms, so it is done in slices, and requests get their turns in between. (In a thread
it would hold them up longer: each of their system calls would then wait 5 ms for the interpreter.)

What belongs here: the figures of HTTP, and the endpoint.
"""

import asyncio
import math
import time
from bisect import bisect_left
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from http import HTTPMethod
from typing import Annotated, NamedTuple

from fastapi import APIRouter, FastAPI, Header, Request
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response

from app.core import context
from app.core.logging import Access
from app.core.metrics import HANDLING, OTHER, SIZES
from project_contracts import traces

router = APIRouter(include_in_schema=False)

_METHODS = frozenset(method.value for method in HTTPMethod)
"""A method is a client's own word: these are counted by it."""

_LONGEST_TRACE_ID = 64
"""An exemplar's labels may have 128 characters in all (OpenMetrics 1.0, Exemplars)."""

_EXEMPLAR_INTERVAL = 1.0
"""s between two exemplars of a bucket: it is scraped less often."""

_SLICE = 200
"""About as many samples are written at one go: 2 ms. Others' turns can take long: no more than needed."""

_END = b"# EOF\n"
"""The last line of OpenMetrics."""


class _Series(NamedTuple):
    """Where requests of one method, route and status are counted.

    `exemplified` is when each bucket of `duration` took its last exemplar from them, by `time.monotonic`.
    """

    requests: Counter
    duration: Histogram
    request_size: Histogram
    response_size: Histogram
    exemplified: list[float]


class HttpMetrics:
    """The figures of HTTP."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests = Counter(
            "http_requests", "Requests answered, by status.", ("method", "route", "status"), registry=registry
        )
        durations = Histogram(
            "http_request_duration_seconds",
            "From a request's head to the end of its answer; status_class is 2xx and so on.",
            ("method", "route", "status_class"),
            buckets=HANDLING,
            registry=registry,
        )
        in_progress = Gauge(
            "http_requests_in_progress", "Requests that are being answered.", ("method",), registry=registry
        )
        self._in_progress = dict.fromkeys((*_METHODS, OTHER), 0)
        for method in self._in_progress:
            in_progress.labels(method).set_function(partial(self._in_progress.__getitem__, method))
        request_sizes = Histogram(
            "http_request_size_bytes",
            "Requests' bodies, as far as they were read.",
            ("route",),
            buckets=SIZES,
            registry=registry,
        )
        response_sizes = Histogram(
            "http_response_size_bytes", "Answers' bodies.", ("route",), buckets=SIZES, registry=registry
        )
        self._exceptions = Counter(
            "http_exceptions",
            "Exceptions that made an answer a 5xx: the code's own, a server's that it needs, a task's.",
            ("route", "exception"),
            registry=registry,
        )

        # A series that is looked up by its labels each time would cost more than counting. Both keys are bounded.
        @cache
        def series(method: str, route: str, status: int) -> _Series:
            return _Series(
                requests.labels(method, route, status),
                durations.labels(method, route, f"{status // 100}xx"),
                request_sizes.labels(route),
                response_sizes.labels(route),
                [-math.inf] * (len(HANDLING) + 1),
            )

        self._series = series
        self._requests = requests

    def begin(self, app: FastAPI) -> None:
        """Have the documented answers of every route begin at 0."""
        for route in iter_route_contexts(app.routes):
            documented = {status for status in getattr(route, "responses", None) or () if isinstance(status, int)}
            documented.add(getattr(route, "status_code", None) or 200)
            for method in route.methods or ():
                for status in documented:
                    self._requests.labels(method, route.path, status)

    def began(self, method: str) -> None:
        """A request has come, with this method."""
        self._in_progress[_known(method)] += 1

    def ended(self, access: Access, *, received: int, sent: int, failure: str | None) -> None:
        """A request that had begun is over.

        Args:
            access: what its log line says.
            received: bytes of its body that were read.
            sent: bytes of its answer's body.
            failure: the name of the exception that made it a 5xx, if one did.
        """
        method = _known(access.method)
        self._in_progress[method] -= 1
        series = self._series(method, access.route, access.status)
        seconds = access.nanoseconds / 1e9
        series.requests.inc()
        series.duration.observe(seconds, _exemplar(seconds, series.exemplified))
        series.request_size.observe(received)
        series.response_size.observe(sent)
        if failure is not None:
            self._exceptions.labels(access.route, failure).inc()


def _known(method: str) -> str:
    return method if method in _METHODS else OTHER


def _exemplar(seconds: float, exemplified: list[float]) -> dict[str, str] | None:
    """Return what finds this request's trace, and its log lines: while there are no traces, its id.

    None if its bucket has a new one.
    """
    bucket, now = bisect_left(HANDLING, seconds), time.monotonic()
    if now - exemplified[bucket] < _EXEMPLAR_INTERVAL:
        return None
    trace = traces.current()
    trace_id = context.request_id.get() if trace is None else trace.trace_id
    if trace_id is None or len(trace_id) > _LONGEST_TRACE_ID:
        return None
    exemplified[bucket] = now
    return {"trace_id": trace_id}


@router.get("/metrics")
async def show_metrics(request: Request, accept: Annotated[str, Header()] = "") -> Response:
    """Show every figure of this process."""
    encode, media_type = choose_encoder(accept)
    parts, written = [], 0
    for family in request.app.state.registry.collect():
        for start in range(0, len(family.samples), _SLICE):
            part = copy(family)
            part.samples = family.samples[start : start + _SLICE]
            text = encode(_Slice(part)).removesuffix(_END)
            # What the family is, and is called, stands before its first sample only.
            parts.append(text if start == 0 else _without_head(text))
            written += len(part.samples)
            if written >= _SLICE:
                written = 0
                await asyncio.sleep(0)
    if media_type.startswith("application/openmetrics-text"):
        parts.append(_END)
    return Response(b"".join(parts), headers={"Content-Type": media_type})


@dataclass(frozen=True)
class _Slice(Collector):
    """Some samples of a family, as what can be encoded."""

    family: Metric

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return (self.family,)


def _without_head(text: bytes) -> bytes:
    while text.startswith(b"#"):
        text = text.partition(b"\n")[2]
    return text
