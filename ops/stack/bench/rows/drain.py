"""Draining a queue: how fast a worker runs tasks that were queued before it started.

How it works: the queue is filled, the worker started, and its progress read from outside, in Redis or RabbitMQ.
The clock runs from the first tenth of the tasks on, so that starting up is not measured; afterwards every stored
result is compared with its task's argument.

What belongs here: that procedure, which several rows use.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stack.bench.contenders import LIMIT, Contender, ContenderError, Process
from stack.bench.lab import Lab

_POLL = 0.01  # s
_TIMEOUT = 90.0  # s
_STARTED = 0.1  # share of the tasks


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker: its name in the table, the contender that it belongs to, and its options.

    `filler` queues the tasks and checks the results. `progress` says where it is seen: `results` in Redis, what
    is left in the `queue`, or in `arq`'s sorted set. A fast one gets `times` as many tasks. `other_keys` is how
    many keys it makes in Redis besides the results.
    """

    name: str
    contender: Contender
    options: dict[str, Any] = field(default_factory=dict)
    filler: Contender = LIMIT
    progress: str = "results"
    times: int = 1
    other_keys: int = 0
    types: tuple[str, ...] = ("classic", "quorum")


def drain(lab: Lab, worker: Worker, queue_type: str, count: int) -> float:
    """Let a worker run `count` queued no-op tasks, times its own factor.

    Returns:
        Its rate in tasks/s.

    Raises:
        ContenderError: It did not run them all, or stored a wrong result.
    """
    count *= worker.times
    lab.store.empty()
    queue = lab.queue(queue_type, declared=worker.filler is LIMIT, consumed=True)
    options = {**worker.options, "queue": queue, "queue_type": queue_type, "count": count}
    lab.ask(worker.filler, "fill", **options)
    if worker.progress != "arq":
        lab.broker.require(queue, count)
    with lab.start(worker.contender, "worker", **options) as running:
        found = rate(_done(lab, worker, queue, count), count, running)
    if worker.progress != "queue":
        correct = lab.ask(worker.filler, "check", **options)["correct"]
        if correct != count:
            raise ContenderError(f"{count} tasks were run, {correct} have the right result")
    lab.broker.delete(queue)
    return found


def _done(lab: Lab, worker: Worker, queue: str, count: int) -> Callable[[], int]:
    if worker.progress == "queue":
        return lambda: count - lab.broker.count(queue)
    if worker.progress == "arq":
        return lambda: count - lab.store.members(queue)
    return lambda: lab.store.keys() - worker.other_keys


def rate(done: Callable[[], int], count: int, running: Process) -> float:
    """Wait until so many tasks are done; return how many they were a second, from the first tenth on.

    Raises:
        ContenderError: They take too long, or the worker has ended.
    """
    deadline = time.monotonic() + _TIMEOUT
    begin, first = 0.0, 0
    while (now_done := done()) < count:
        now = time.monotonic()
        if not begin and now_done >= count * _STARTED:
            begin, first = now, now_done
        if now > deadline:
            raise running.error(f"has run {now_done} of {count} tasks after {_TIMEOUT:.0f} s")
        if running.has_ended:
            raise running.error("ended")
        time.sleep(_POLL)
    return (count - first) / (time.monotonic() - begin)
