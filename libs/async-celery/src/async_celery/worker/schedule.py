"""When a task was sent and when it was due, as its message says: in s since 1970.

How it works: both are headers, so they can be anything; what is no time is None.

What belongs here: reading these two. Metrics and the stored timeline take them from here, so that they agree.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from async_celery.types import PUBLISHED_AT


def published_at(request: Mapping[str, Any]) -> float | None:
    """Return when a message was sent: for a retry, its own; None where its sender did not say."""
    published = request.get(PUBLISHED_AT)
    return published if isinstance(published, float | int) and math.isfinite(published) else None


def due_at(request: Mapping[str, Any]) -> float | None:
    """Return before when a task was not to start; None for one that was to start at once."""
    if not (eta := request.get("eta")):
        return None
    try:
        due = datetime.fromisoformat(eta)
    except (ValueError, TypeError):
        return None
    return (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp()
