"""Which series there are: every contract's from the start, one for whatever else a name may be."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.celery.metrics import ProducerMetrics
from async_celery.observation import PublishOutcome, RevokeReason, WaitOutcome
from project_contracts.contract import TaskContract
from project_contracts.integers import INTEGERS_SUM
from project_contracts.invoices import INVOICE_TOTAL


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> ProducerMetrics:
    return ProducerMetrics(registry)


def series(registry: CollectorRegistry) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {(s.name, frozenset(s.labels.items())) for family in registry.collect() for s in family.samples}


@pytest.mark.parametrize("contract", [INTEGERS_SUM, INVOICE_TOTAL])
def test_what_is_known_begins_at_0(
    registry: CollectorRegistry, metrics: ProducerMetrics, contract: TaskContract[Any, Any]
) -> None:
    assert metrics
    known = {"task": contract.name, "queue": contract.queue}
    for outcome in ("ok", "nacked", "unroutable", "timeout", "error"):
        assert registry.get_sample_value("celery_producer_messages_total", {**known, "outcome": outcome}) == 0
    for task in (known["task"], "chain", "group", "chord"):
        wait = {"task": task, "outcome": "timeout"}
        assert registry.get_sample_value("celery_result_wait_duration_seconds_count", wait) == 0


def test_names_that_others_make_up_make_one_series(registry: CollectorRegistry, metrics: ProducerMetrics) -> None:
    def tell(name: str) -> None:
        metrics.published(name, name, PublishOutcome.OK, 0.01, 100)
        metrics.wait_began()
        metrics.wait_ended(name, WaitOutcome.SUCCESS, 0.01)
        metrics.delivered(name, 0.01)
        metrics.revoked(name, RevokeReason.CANCEL)

    tell("first")
    before = series(registry)
    for number in range(100):
        tell(f"made up {number}")
    assert series(registry) == before
    other = {"task": "__other__", "queue": "__other__", "outcome": "ok"}
    assert registry.get_sample_value("celery_producer_messages_total", other) == 101


def test_what_was_not_encoded_has_no_size(registry: CollectorRegistry, metrics: ProducerMetrics) -> None:
    for size in (0, 500):
        metrics.published(INTEGERS_SUM.name, INTEGERS_SUM.queue, PublishOutcome.ERROR, 0.01, size)
    task = {"task": INTEGERS_SUM.name}
    assert registry.get_sample_value("celery_producer_message_size_bytes_count", task) == 1


def test_the_connection_comes_and_goes(registry: CollectorRegistry, metrics: ProducerMetrics) -> None:
    def state() -> tuple[float | None, float | None]:
        return (
            registry.get_sample_value("celery_producer_connected"),
            registry.get_sample_value("celery_producer_reconnects_total"),
        )

    assert state() == (0, 0)
    metrics.connected(again=False)
    assert state() == (1, 0)
    metrics.disconnected()
    metrics.connected(again=True)
    assert state() == (1, 1)
