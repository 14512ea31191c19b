"""State: what a worker does at the moment when somebody asks.

How it works: Celery's main process knows each message that it holds, from its arrival to its end. It is looked at
from the endpoint's thread, so only through copies that the interpreter makes in one step.

What belongs here: what is looked up, not counted.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from celery.worker import state
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from async_celery.worker.metrics.recorder import OTHER


class StateCollector(Collector):
    """Looks at the worker whose consumer it was made for."""

    def __init__(self, consumer: Any, *, tasks: Iterable[str]) -> None:
        """Take the worker's consumer, and the names of its tasks."""
        self._consumer = consumer
        self._tasks = frozenset(tasks)

    def collect(self) -> Iterator[Metric]:
        """Return what is true now."""
        held = list(state.requests.values())
        started = [request for request in held if request.time_start]
        running = Counter(request.type if request.type in self._tasks else OTHER for request in started)
        of_tasks = GaugeMetricFamily(
            "celery_worker_tasks_running", "Tasks that run in this worker's processes.", labels=("task",)
        )
        for task in sorted(running.keys() | {task for task in self._tasks if not task.startswith("celery.")}):
            of_tasks.add_metric((task,), running[task])
        yield of_tasks
        yield GaugeMetricFamily(
            "celery_worker_tasks_prefetched",
            "Tasks that wait in this worker, for a process or for their eta.",
            value=len(held) - len(started),
        )
        yield GaugeMetricFamily(
            "celery_worker_oldest_running_task_age_seconds",
            "Since when the task that has run for longest runs; 0 when none does.",
            value=max((time.time() - request.time_start for request in started), default=0.0),
        )
        yield GaugeMetricFamily(
            "celery_worker_pool_processes",
            "Tasks that this worker can run at a time.",
            value=self._consumer.pool.num_processes,
        )
        yield GaugeMetricFamily(
            "celery_worker_prefetch_limit",
            "Messages that the broker gives this worker at a time; 0 is no limit.",
            value=self._consumer.qos.value or 0,
        )
