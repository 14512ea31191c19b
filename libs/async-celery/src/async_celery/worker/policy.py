"""Policy: the numbers that a worker is run with, and the one call that puts this package into a Celery app.

How it works: `install(app, policy)` names our classes where Celery asks for them: the task class, the consumer,
the result backend, the bootsteps. They find the numbers again through `policy_of(app)`.

What belongs here: what can be decided differently for each worker. How it is done is in the other modules.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celery.concurrency
from celery.exceptions import ImproperlyConfigured
from kombu.utils.imports import symbol_by_name

from async_celery.worker.coroutines import see_results
from async_celery.worker.liveness import RETRY_SETTINGS
from async_celery.worker.publishing import stamping

if TYPE_CHECKING:
    from celery import Celery


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a worker's tasks may do, and for how long.

    Attributes:
        max_attempts: runs of one task that may begin, retries included, before it counts as poison.
        max_result_bytes: of a stored result's JSON; a larger one is a failure.
        started_after: in s; a task that ends sooner never shows as STARTED.
        cancel_check_interval: in s, how often a running task is looked up among the cancelled.
        cancel_grace: in s, how long a cancelled task may clean up before its process is killed.
        history_length: how many finished tasks the history keeps, at least.
        heartbeat_file: touched by a worker, or a reaper, that is well; None for none.
        heartbeat_interval: in s, of a worker; a reaper's is 1 s.
    """

    max_attempts: int = 5
    max_result_bytes: int = 1024 * 1024
    started_after: float = 0.05  # s
    cancel_check_interval: float = 1.0  # s
    cancel_grace: float = 5.0  # s
    history_length: int = 100_000
    heartbeat_file: Path | None = None
    heartbeat_interval: float = 5.0  # s


_pools: Any = celery.concurrency  # its stubs are empty
_KEY = "async_celery_policy"
_REDIS = ("redis", "rediss", "redis+socket", "socket")
"""The schemes of `result_backend` that are one Redis server."""


def install(app: "Celery", policy: Policy) -> None:
    """Have `app`'s workers run tasks the way this package promises. Call it once, before tasks are registered."""
    setattr(app, _KEY, policy)
    app.loader.override_backends = dict.fromkeys(_REDIS, "async_celery.worker.backend:ResultBackend")
    app.task_cls = "async_celery.worker.task:ReliableTask"
    see_results(app)
    app.conf.worker_consumer = "async_celery.worker.consumer:Consumer"
    _pools.ALIASES["asyncio"] = "async_celery.worker.asyncio_pool:TaskPool"
    app.conf.update(RETRY_SETTINGS)
    # Whoever gave up would send the message back, and it would be there again at once, up to its delivery limit.
    app.conf.result_backend_always_retry = True
    app.steps["consumer"].update(
        ("async_celery.worker.dead_letters:DeadLetterTopology", "async_celery.worker.heartbeat:Heartbeat")
    )
    app.steps["worker"].add("async_celery.worker.pool:OwnPool")
    celery: Any = app  # its stubs know names of classes only
    celery.amqp_cls = stamping(symbol_by_name(celery.amqp_cls))


def policy_of(app: "Celery") -> Policy:
    """Return what `install` was given.

    Raises:
        ImproperlyConfigured: it was not called.
    """
    policy: Policy | None = getattr(app, _KEY, None)
    if policy is None:
        raise ImproperlyConfigured(
            "call async_celery.worker.install(app, Policy()) before the app's tasks are made"
        )
    return policy
