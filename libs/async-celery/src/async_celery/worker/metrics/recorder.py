"""Recorder: what is counted and measured of a worker's messages.

How it works: it is the app's observer (`observer.py`), in the main process and, inherited by the fork, in each of
the pool's processes. Its metrics add up over all of them. Which process counts what is the observer's contract:
each delivery of a message that was received ends once, so that received = finished + what is here now + what the
broker took back with a lost connection. A child that is killed between counting its task and saying so is told of
twice, as the task's `success` and as `worker_lost`; the delivery after it ends as `ignored`.

Labels are what this worker knows at its start: its tasks, its queues. Anything else is `__other__`, so that no
message can make series. All that is known then starts at 0.

What belongs here: names, labels, buckets, and when each is counted.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded
from prometheus_client import Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from async_celery.topology import without_delay
from async_celery.worker.observer import End, Observer
from async_celery.worker.schedule import due_at, published_at

if TYPE_CHECKING:
    from celery import Celery

Method = TypeVar("Method", bound=Callable[..., None])

_logger = logging.getLogger(__name__)

OTHER = "__other__"
"""Label of what this worker did not know at its start, or of what there is too much."""

_MOST_EXCEPTIONS = 100  # classes by name, in each process's file; code can make up any number of them
_FAILURES = "celery_worker_task_failures"

# In s, all of them. A task's run; its waiting; one call of Redis.
_RUN = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_WAIT = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_CALL = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.3, 0.5, 1, 2.5, 5, 10, 30, 60)

_TIMED = (End.SUCCESS, End.FAILURE, End.RETRY)
"""Ends of runs whose duration says something about the task."""


class _Run(threading.local):
    """The run in this thread: when it began (`time.monotonic`), and how long its end has taken to store, in s."""

    began = 0.0
    stored = 0.0


def _quietly(method: Method) -> Method:
    """Let nothing that goes wrong with counting reach the task that is counted; it is told once per process."""

    @wraps(method)
    def count(self: "Recorder", *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except SoftTimeLimitExceeded:
            # It was raised here by chance, and is the task's.
            raise
        except Exception:
            if not self.has_failed:
                self.has_failed = True
                _logger.exception("A metric could not be counted; what else goes wrong with them is not logged")

    return count  # type: ignore[return-value]  # it has the method's signature


class Recorder(Observer):
    """Counts and measures. Make it when prometheus_client knows where its files are (`service.py`)."""

    def __init__(self, app: "Celery") -> None:
        """Make the metrics; those of the app's tasks, on the queues that it consumes, are 0."""
        self.has_failed = False
        self.tasks = frozenset(app.tasks)
        self._queues = frozenset(app.amqp.queues.consume_from)
        self._exceptions: set[str] = set()
        self._run = _Run()
        counter, histogram = _maker(Counter), _maker(Histogram)
        self._received = counter(
            "celery_worker_tasks_received", "Messages of tasks that came to this worker.", ("task", "queue")
        )
        self._finished = counter(
            "celery_worker_tasks_finished", "Deliveries of tasks that ended.", ("task", "queue", "state")
        )
        self._failures = counter(_FAILURES, "Failures by their exception.", ("task", "exception"))
        self._unknown = counter("celery_worker_unknown_tasks", "Messages of no task that this worker has.")
        self._child_starts = counter("celery_worker_child_starts", "Processes that the pool has started.")
        self._clock_skew = counter(
            "celery_worker_clock_skew", "Tasks that started before they were published: clocks differ."
        )
        self._duration = histogram(
            "celery_worker_task_duration_seconds",
            "Time that a task ran, without the storing of its end.",
            ("task", "state"),
            buckets=_RUN,
        )
        self._queue_duration = histogram(
            "celery_worker_task_queue_duration_seconds",
            "Time from the publishing of a task, or from its eta, to its start.",
            ("task", "queue"),
            buckets=_WAIT,
        )
        self._prefetch_duration = histogram(
            "celery_worker_task_prefetch_duration_seconds",
            "Time from a task's arrival in the worker, or from its eta, to its start.",
            buckets=_WAIT,
        )
        self._store_duration = histogram(
            "celery_worker_result_store_duration_seconds",
            "Time that it took to store a task's end, repetitions included.",
            ("task",),
            buckets=_CALL,
        )
        self._start_at_zero()

    def move_in(self, counters: Path) -> None:
        """Write the files of this process, from now on, which was forked from the one that has the others.

        Args:
            counters: the one of these files that has the counters. Processes that had it before may have left
                something in it.

        Raises:
            OSError: they cannot be opened.
        """
        # All values move when one of them is written.
        self._unknown.inc(0)
        self._exceptions = {
            sample.labels["exception"]
            for metric in MultiProcessCollector.merge([str(counters)])  # type: ignore[no-untyped-call]
            for sample in metric.samples
            if sample.name == f"{_FAILURES}_total"
        } - {OTHER}

    @_quietly
    def child_starts(self) -> None:
        """Take note: the pool starts a process."""
        self._child_starts.inc()

    @_quietly
    def message_received(self, task: str, request: Mapping[str, Any]) -> None:
        """Count it."""
        self._received(self._task(task), self._queue(request)).inc()

    @_quietly
    def message_unknown(self) -> None:
        """Count it, without its name: anybody can make up names."""
        self._unknown.inc()

    @_quietly
    def message_ended(self, task: str, request: Mapping[str, Any], end: End, error: str | None = None) -> None:
        """Count it; where a run came before, measure that."""
        task = self._task(task)
        self._finished(task, self._queue(request), end.value).inc()
        if error is not None:
            self._failures(task, self._exception(error)).inc()
        if end in _TIMED and "started_at" in request:
            run = self._run
            self._duration(task, end.value).observe(time.monotonic() - run.began - run.stored)

    @_quietly
    def run_began(self, task: str, request: Mapping[str, Any]) -> None:
        """Measure how long the task has waited, altogether and in this worker."""
        self._run.began, self._run.stored = time.monotonic(), 0.0
        started: float = request["started_at"]
        due = due_at(request) or 0.0
        published = published_at(request)
        if published is not None:
            if published > started:
                self._clock_skew.inc()
            waited = max(0.0, started - max(published, due))
            self._queue_duration(self._task(task), self._queue(request)).observe(waited)
        received = request.get("received_at")
        if received is not None:
            self._prefetch_duration.observe(max(0.0, started - max(received, due)))

    @_quietly
    def result_stored(self, task: str | None, seconds: float) -> None:
        """Measure it."""
        self._run.stored += seconds
        self._store_duration(self._task(task)).observe(seconds)

    def _task(self, name: str | None) -> str:
        return name if name is not None and name in self.tasks else OTHER

    def _queue(self, request: Mapping[str, Any]) -> str:
        routing_key = (request.get("delivery_info") or {}).get("routing_key")
        queue = without_delay(routing_key) if routing_key else OTHER
        return queue if queue in self._queues else OTHER

    def _exception(self, name: str) -> str:
        if len(self._exceptions) < _MOST_EXCEPTIONS:
            self._exceptions.add(name)
        return name if name in self._exceptions else OTHER

    def _start_at_zero(self) -> None:
        for task in self.tasks:
            # Celery's own, which nobody here sends.
            if task.startswith("celery."):
                continue
            self._store_duration(task)
            for end in _TIMED:
                self._duration(task, end.value)
            for queue in self._queues:
                self._received(task, queue)
                self._queue_duration(task, queue)
                for end in End:
                    self._finished(task, queue, end.value)


def _maker(kind: Any) -> Any:
    """Return a function that makes metrics of a kind; of one with labels, what returns it by their values.

    prometheus_client checks and converts these each time, which takes as long as counting. There are few of them.
    """

    def make(name: str, documentation: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
        # Not in the process-wide registry: the files are what is read.
        made = kind(name, documentation, labels, registry=None, **options)
        return cache(made.labels) if labels else made

    return make
