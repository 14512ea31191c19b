"""What a worker adds to the messages that it sends itself: retries, the next step of a chain, a chord's body.

How it works: everything that an app sends goes through its `amqp`. `stamping` makes a class of that which sets
the time of sending, as every client's message has it. A message that a running task causes also gets the caller's
own headers, such as the id of an HTTP request, unless it brings them itself: Celery copies them to retries only.
(Celery's signal `before_task_publish` would reach all apps of the process, and have clients in it encode each
message the slow way.)

What belongs here: headers of messages that leave a worker.
"""

import time
from collections.abc import Callable
from typing import Any

from celery._state import get_current_task

from async_celery.spans import Sending
from async_celery.topology import without_delay
from async_celery.types import PUBLISHED_AT
from async_celery.worker.tracing import tracer_of

# Ours, of one run: Celery's Context counts them among the caller's, and a retry brings them.
_OF_THE_RUN = frozenset({"received_at", "redeliveries", "started_at"})
_OF_THE_BROKER = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")


def stamping(amqp: type[Any]) -> type[Any]:
    """Return the app's `amqp` class, with headers added to each task that the app sends."""

    class StampingAMQP(amqp):  # type: ignore[misc]  # whatever the app has
        def _create_task_sender(self) -> Callable[..., Any]:
            send: Callable[..., Any] = super()._create_task_sender()

            def send_stamped(producer: Any, name: str, message: Any, *args: Any, **options: Any) -> Any:
                headers = options["headers"] = with_stamps(message.headers, options.get("headers") or {})
                tracer = tracer_of(self.app)
                if tracer is None:
                    return send(producer, name, message, *args, **options)
                with tracer.sending(_sending(name, message.headers, options)) as added:
                    # A retry brings those of the run before.
                    headers.update(added)
                    return send(producer, name, message, *args, **options)

            return send_stamped

    return StampingAMQP


def _sending(name: str, celerys: dict[str, Any], options: dict[str, Any]) -> Sending:
    queue = options.get("queue")
    where = getattr(queue, "name", queue) or without_delay(options.get("routing_key") or "") or None
    return Sending(name, celerys["id"], celerys["root_id"], where, 1, options["headers"])


def with_stamps(celerys: dict[str, Any], callers: dict[str, Any]) -> dict[str, Any]:
    """Return what the caller adds to Celery's headers, and what we do."""
    added = {name: value for name, value in callers.items() if name not in _OF_THE_RUN}
    added[PUBLISHED_AT] = time.time()
    task: Any = get_current_task()
    if task is not None and task.request.headers:
        for name, value in task.request.headers.items():
            if not (name in celerys or name in _OF_THE_RUN or name.startswith(_OF_THE_BROKER)):
                added.setdefault(name, value)
    return added
