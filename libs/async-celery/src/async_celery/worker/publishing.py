"""What a worker adds to the messages that it sends itself: retries, the next step of a chain, a chord's body.

How it works: Celery's signal `before_task_publish` hands out each message's headers. They get the time of
sending, as every client's message has it. A message that a running task causes also gets the caller's own
headers, such as the id of an HTTP request, unless it brings them itself: Celery copies them to retries only.

What belongs here: headers of messages that leave a worker.
"""

import time
from typing import Any

from celery import signals
from celery._state import get_current_task

from async_celery.types import PUBLISHED_AT

# Celery's Context counts these among the caller's.
_NOT_THE_CALLERS = frozenset({"properties", "received_at", "redeliveries", "started_at", "cancel_check_due"})
_OF_THE_BROKER = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")


def stamp_publishes() -> None:
    """Have all messages that this process sends stamped."""
    signals.before_task_publish.connect(_stamp, weak=False, dispatch_uid="async_celery.worker.publishing")


def _stamp(headers: dict[str, Any], **_: Any) -> None:
    task: Any = get_current_task()
    if task is not None and task.request.headers:
        for name, value in task.request.headers.items():
            if name not in _NOT_THE_CALLERS and not name.startswith(_OF_THE_BROKER):
                headers.setdefault(name, value)
    headers[PUBLISHED_AT] = time.time()
