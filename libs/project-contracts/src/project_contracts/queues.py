"""The queues, one per autonomous service: a queue carries its service's name.

How it works: both projects declare their queues from `QUEUES`, so that RabbitMQ never sees two declarations that
differ. What a queue is made of (quorum, dead letters, …) is `async_celery.queues`' business.

What belongs here: names, and the numbers in which queues may differ.
"""

from dataclasses import dataclass

PROJECT_WORKER = "project-worker"
PROJECT_WORKER_PICKLE = "project-worker-pickle"
"""For tasks whose arguments JSON cannot hold: a process of its own accepts signed pickle, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class WorkQueue:
    """One queue: at most `max_length` messages; each comes back unfinished at most `delivery_limit` times."""

    name: str
    max_length: int = 100_000
    delivery_limit: int = 100


QUEUES = (WorkQueue(name=PROJECT_WORKER), WorkQueue(name=PROJECT_WORKER_PICKLE))
"""Every queue that tasks are sent to."""
