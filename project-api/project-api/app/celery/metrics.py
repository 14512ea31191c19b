"""What is measured of sending tasks and waiting for their results: `celery_producer_*`, `celery_result_*`.

How it works: `async_celery` tells `ProducerMetrics` what happens (`async_celery.observation`), in the middle of
it; a series is looked up once and kept. A task's name may come from a stored result, so from anywhere: only
contracts' names are labels, and the kinds of workflows.

What belongs here: these figures.
"""

import sys
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.core.metrics import HANDLING, OTHER, RUNS, SIZES
from async_celery.observation import Observer, PublishOutcome, RevokeReason, WaitOutcome
from project_contracts.contract import TaskContract
from project_contracts.queues import QUEUES

_CONTRACTS = "project_contracts."

_WORKFLOWS = ("chain", "group", "chord")
"""What a workflow is called where a task has its name."""


def _contracts() -> list[TaskContract[Any, Any]]:
    """Return every task that this process knows, which are those that it can send: a new one is measured, too."""
    of_contracts = [module for name, module in sys.modules.items() if name.startswith(_CONTRACTS)]
    found = {id(value): value for module in of_contracts for value in vars(module).values()}
    return [value for value in found.values() if isinstance(value, TaskContract)]


class ProducerMetrics(Observer):
    """Counts what the client tells. Its methods are called on the event loop, once for each message and wait."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tasks = {contract.name for contract in _contracts()} | {*_WORKFLOWS}
        self._queues = {queue.name for queue in QUEUES}
        messages = Counter(
            "celery_producer_messages",
            "Tasks' messages by how sending them ended: ok is the broker's confirm; nacked, a full queue; "
            "timeout, nobody knows; error, not sent.",
            ("task", "queue", "outcome"),
            registry=registry,
        )
        durations = Histogram(
            "celery_producer_publish_duration_seconds",
            "From handing a message over to the broker's confirm, or another end.",
            ("queue", "outcome"),
            buckets=HANDLING,
            registry=registry,
        )
        sizes = Histogram(
            "celery_producer_message_size_bytes",
            "Tasks' messages as they are written to the broker, properties and headers included.",
            ("task",),
            buckets=SIZES,
            registry=registry,
        )
        self._connected = Gauge(
            "celery_producer_connected",
            "1 while there is a connection to the broker; it is made for the first message.",
            registry=registry,
        )
        self._reconnects = Counter(
            "celery_producer_reconnects", "Connections to the broker after the first one.", registry=registry
        )
        revokes = Counter(
            "celery_producer_revokes",
            "Tasks and workflows revoked: cancel by a request, timeout because its client had waited enough.",
            ("task", "reason"),
            registry=registry,
        )
        waits = Histogram(
            "celery_result_wait_duration_seconds",
            "Waits for a result, from the confirm of its task (or the request that asks for it) to the end: "
            "timeout without a result; unknown, there is no such task; abandoned, the client left or the API "
            "stops.",
            ("task", "outcome"),
            buckets=RUNS,
            registry=registry,
        )
        self._waiters = Gauge("celery_result_waiters", "Waits for a result just now.", registry=registry)
        lags = Histogram(
            "celery_result_delivery_lag_seconds",
            "From when a task was done, by its worker's clock, to when who waits has its result: storing it and "
            "hearing of it. From the wait's begin for a result that was there before.",
            ("task",),
            buckets=HANDLING,
            registry=registry,
        )
        self._polls = Counter(
            "celery_result_polls",
            "Reads of results because a push may have been missed; one read asks for all that is waited for.",
            registry=registry,
        )

        # A series that is looked up by its labels each time would cost more than counting.
        @cache
        def publishes(task: str, queue: str, outcome: PublishOutcome) -> tuple[Counter, Histogram, Histogram]:
            return messages.labels(task, queue, outcome), durations.labels(queue, outcome), sizes.labels(task)

        self._publishes = publishes
        self._revokes = cache(revokes.labels)
        self._waits = cache(waits.labels)
        self._lags = cache(lags.labels)
        self._begin()

    def _begin(self) -> None:
        """Have the known series begin at 0, of waits those that every dashboard and alert is about."""
        for contract in _contracts():
            for outcome in PublishOutcome:
                self._publishes(contract.name, contract.queue, outcome)
        for task in self._tasks:
            self._lags(task)
            for reason in RevokeReason:
                self._revokes(task, reason)
            for ending in (WaitOutcome.SUCCESS, WaitOutcome.TIMEOUT):
                self._waits(task, ending)

    def published(self, task: str, queue: str, outcome: PublishOutcome, seconds: float, size: int) -> None:
        """See `Observer`."""
        known_queue = queue if queue in self._queues else OTHER
        count, duration, sizes = self._publishes(self._known(task), known_queue, outcome)
        count.inc()
        duration.observe(seconds)
        if size:
            sizes.observe(size)

    def connected(self, *, again: bool) -> None:
        """See `Observer`."""
        self._connected.set(1)
        if again:
            self._reconnects.inc()

    def disconnected(self) -> None:
        """See `Observer`."""
        self._connected.set(0)

    def revoked(self, task: str | None, reason: RevokeReason) -> None:
        """See `Observer`."""
        self._revokes(self._known(task), reason).inc()

    def wait_began(self) -> None:
        """See `Observer`."""
        self._waiters.inc()

    def wait_ended(self, task: str | None, outcome: WaitOutcome, seconds: float) -> None:
        """See `Observer`."""
        self._waiters.dec()
        self._waits(self._known(task), outcome).observe(seconds)

    def delivered(self, task: str | None, seconds: float) -> None:
        """See `Observer`."""
        self._lags(self._known(task)).observe(seconds)

    def polled(self) -> None:
        """See `Observer`."""
        self._polls.inc()

    def _known(self, task: str | None) -> str:
        return task if task is not None and task in self._tasks else OTHER
