"""What is not known is not 0."""

import math

from prometheus_client import CollectorRegistry

from app.database.metrics import DatabaseMetrics


def test_an_outbox_that_was_not_looked_at_yet_is_not_known() -> None:
    registry = CollectorRegistry()
    DatabaseMetrics(registry)
    for name, labels in (
        ("outbox_messages", {"state": "waiting"}),
        ("outbox_messages", {"state": "set_aside"}),
        ("outbox_oldest_message_age_seconds", {}),
    ):
        seen = registry.get_sample_value(name, labels)
        assert seen is not None
        assert math.isnan(seen)
