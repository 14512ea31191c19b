"""The page is what prometheus_client writes at one go; figures and log lines agree, also on what goes wrong."""

import asyncio
import logging
from collections import Counter as CounterOf
from collections.abc import Callable

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from app.api import metrics
from app.api.metrics import HttpMetrics
from app.api.middleware import RequestContextMiddleware
from app.core import context
from app.core.logging import Access

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PLAIN = "text/plain; version=0.0.4"


def caller(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://api")


@pytest.mark.parametrize(("accept", "whole"), [(PLAIN, generate_latest), (OPENMETRICS, generate_openmetrics)])
async def test_slices_make_the_whole(accept: str, whole: Callable[[CollectorRegistry], bytes]) -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]  # as `create_registry` does
    registry = CollectorRegistry()
    many = Counter("many", "More than a slice: # HELP, \\ and \n.", ("number",), registry=registry)
    lengths = Histogram("lengths", "Of slices, as many samples as two.", ("number",), registry=registry)
    for number in range(450):
        many.labels(f"# {number}\n").inc(number, {"trace_id": str(number)})
        lengths.labels(number).observe(number)
    app = FastAPI()
    app.state.registry = registry
    app.include_router(metrics.router)
    async with caller(app) as client:
        answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.content == whole(registry)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def app(registry: CollectorRegistry) -> FastAPI:
    app = FastAPI()
    router = APIRouter()

    @router.get("/things/{number}")
    async def thing(number: int) -> int:
        return 1 // number

    @router.get("/endless")
    async def endless() -> None:
        app.state.is_waiting.set()
        await asyncio.Event().wait()

    app.state.is_waiting = asyncio.Event()
    app.include_router(router, prefix="/v1")
    app.add_middleware(RequestContextMiddleware, metrics=HttpMetrics(registry))
    return app


async def test_figures_and_lines_agree(
    app: FastAPI, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    async with caller(app) as client:
        for number in (0, 1, "one"):
            await client.get(f"/v1/things/{number}")
        await client.get("/v1/unknown")
        # As at shutdown, when those that do not end in time are.
        cancelled = asyncio.create_task(client.get("/v1/endless"))
        await app.state.is_waiting.wait()
        assert registry.get_sample_value("http_requests_in_progress", {"method": "GET"}) == 1
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    lines = [record.msg for record in caplog.records if isinstance(record.msg, Access)]
    things = "/v1/things/{number}"
    expected = {(things, 500), (things, 200), (things, 422), ("__unmatched__", 404), ("/v1/endless", 499)}
    assert CounterOf((line.route, line.status) for line in lines) == dict.fromkeys(expected, 1)
    counted = {
        (sample.labels["route"], int(sample.labels["status"])): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "http_requests_total"
    }
    assert counted == dict.fromkeys(expected, 1)
    seconds = registry.get_sample_value(
        "http_request_duration_seconds_sum", {"method": "GET", "route": "/v1/endless", "status_class": "4xx"}
    )
    [endless] = [line for line in lines if line.status == 499]
    assert seconds == endless.nanoseconds / 1e9
    assert registry.get_sample_value("http_requests_in_progress", {"method": "GET"}) == 0


async def test_what_is_raised_is_a_500_with_its_exception(app: FastAPI, registry: CollectorRegistry) -> None:
    async with caller(app) as client:
        for number in (0, 1, 0, "one"):
            await client.get(f"/v1/things/{number}")
    route = "/v1/things/{number}"

    def requests(status: int) -> float | None:
        labels = {"method": "GET", "route": route, "status": str(status)}
        return registry.get_sample_value("http_requests_total", labels)

    assert (requests(200), requests(422), requests(500)) == (1, 1, 2)
    raised = {"route": route, "exception": "ZeroDivisionError"}
    assert registry.get_sample_value("http_exceptions_total", raised) == 2
    assert registry.get_sample_value("http_requests_in_progress", {"method": "GET"}) == 0


def test_each_bucket_takes_an_exemplar_a_second(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    figures = HttpMetrics(registry)

    def request(request_id: str, seconds: float) -> None:
        token = context.request_id.set(request_id)
        figures.began("GET")
        access = Access("GET", "/", "/", 200, round(seconds * 1e9))
        figures.ended(access, received=0, sent=0, failure=None)
        context.request_id.reset(token)

    def exemplars() -> dict[str, str]:
        return {
            sample.labels["le"]: sample.exemplar.labels["trace_id"]
            for family in registry.collect()
            for sample in family.samples
            if sample.exemplar
        }

    request("first", 0.005)  # a bucket has its bound
    request("second", 0.004)
    request("slow", 100)
    assert exemplars() == {"0.005": "first", "+Inf": "slow"}
    now += 1
    request("third", 0.004)
    assert exemplars() == {"0.005": "third", "+Inf": "slow"}
    count = {"method": "GET", "route": "/", "status_class": "2xx"}
    assert registry.get_sample_value("http_request_duration_seconds_count", count) == 4


async def test_an_id_that_is_too_long_for_an_exemplar_is_left_out(
    app: FastAPI, registry: CollectorRegistry
) -> None:
    async with caller(app) as client:
        assert (await client.get("/v1/things/1", headers={"X-Request-ID": "x" * 128})).status_code == 200
    assert b"trace_id" not in generate_openmetrics(registry)  # type: ignore[no-untyped-call]
    # And nothing was raised on the way.
    assert registry.get_sample_value("http_response_size_bytes_count", {"route": "/v1/things/{number}"}) == 1
