"""Where the API's figures are kept, and those that are nobody's in particular: the process, its loop, its build.

How it works: one registry per app, handed to whoever measures (`app/*/metrics.py`); `GET /metrics` shows it. All
that is known when the process starts (routes, tasks, queues) is there from then on with 0: Prometheus cannot see
a counter rise that begins with its first event. No label holds an id, a raw path or a text: all that a client, or
whoever stores results, can make up is one value (`__unmatched__`, `__other__`).

What belongs here: the registry, the buckets that several figures share, and the process' own figures.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from app.core.config import Settings

OTHER = "__other__"
"""A label's value for every name that this code does not know."""

HANDLING = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.3, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Buckets in s for what is handled at once: requests, publishes, deliveries. 0.3 is an SLO's."""

RUNS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Buckets in s for tasks' runs, and waits for them."""

LATENCIES = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Buckets in s for what should take no time at all."""

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
"""Buckets in bytes."""

SAMPLE_INTERVAL = 0.1
"""s between two looks at the loop: ten timers a second cost some 0.1% of a processor, and a loop that stands
still for a tenth of a second is always met."""


def create_registry(settings: Settings) -> CollectorRegistry:
    """Make a registry that knows the process and its build."""
    # When a series began, once more for each: nobody asks, and it nearly doubles what is scraped of the counters.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    build = Info("app_build", "1; its labels say what runs.", registry=registry)
    build.info({"version": settings.api_version, "revision": settings.api_revision})
    return registry


class LoopLag:
    """How late the event loop comes to what is due."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            "asyncio_event_loop_lag_seconds",
            f"How late the event loop came to a timer; looked at every {SAMPLE_INTERVAL:g} s.",
            buckets=LATENCIES,
            registry=registry,
        )

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look at this loop meanwhile."""
        watcher = asyncio.create_task(self._keep_watching(), name="event loop lag")
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _keep_watching(self) -> None:
        while True:
            due = time.perf_counter() + SAMPLE_INTERVAL
            await asyncio.sleep(SAMPLE_INTERVAL)
            # Timers may be early by their resolution.
            self._lag.observe(max(0.0, time.perf_counter() - due))
