"""The clock beside a running task, in this very process: its tasks run in the test's main thread."""

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from async_celery.worker import Policy, TaskCancelled
from async_celery.worker.clock import Clock

POLICY = Policy(started_after=0.02, cancel_check_interval=0.02, cancel_grace=60)


@dataclass
class Request:
    id: str
    root_id: str | None = None
    worker_pid: int | None = None


@dataclass
class Backend:
    """Says what it is asked, and of which tasks it knows that they are cancelled."""

    revoked: set[str] = field(default_factory=set)
    started: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    away: bool = False

    def store_started(self, request: Request) -> None:
        self.started.append(request.id)

    def is_revoked(self, task_id: str, root_id: str | None) -> bool:
        self.asked.append(task_id)
        if self.away:
            raise ConnectionError("redis is away")
        return not self.revoked.isdisjoint({task_id, root_id})


@dataclass
class Task:
    backend: Backend
    name: str = "task"


@pytest.fixture
def clock() -> Clock:
    """One of the test's own: its signal goes to whichever clock was made last."""
    return Clock(POLICY)


@pytest.fixture
def still() -> Clock:
    """One whose thread does nothing."""
    return Clock(Policy(started_after=3600))


@pytest.fixture
def task() -> Task:
    return Task(Backend())


def run(clock: Clock, task: Task, task_id: str, seconds: float) -> str:
    clock.arm(task, Request(task_id))
    try:
        time.sleep(seconds)
        return "ended"
    except TaskCancelled:
        return "cancelled"
    finally:
        clock.disarm()


def test_short_task_costs_nothing(task: Task) -> None:
    clock = Clock(Policy(started_after=5, cancel_check_interval=0.02))
    for n in range(20):
        assert run(clock, task, str(n), 0.001) == "ended"
    assert task.backend.started == []
    assert task.backend.asked == []


def test_long_task_is_started_once_and_looked_up(clock: Clock, task: Task) -> None:
    assert run(clock, task, "a", 0.3) == "ended"
    assert task.backend.started == ["a"]
    assert len(task.backend.asked) >= 3


def test_cancelled_task_is_interrupted(clock: Clock, task: Task) -> None:
    task.backend.revoked.add("a")
    begun = time.monotonic()
    assert run(clock, task, "a", 30) == "cancelled"
    assert time.monotonic() - begun < 5


def test_cancelled_is_no_exception() -> None:
    """What tasks catch must not swallow it."""
    assert not issubclass(TaskCancelled, Exception)


def test_task_without_a_backend_goes_on(clock: Clock, task: Task) -> None:
    task.backend.away = True
    assert run(clock, task, "a", 0.2) == "ended"
    assert len(task.backend.asked) >= 2
    task.backend.away = False
    task.backend.revoked.add("b")
    assert run(clock, task, "b", 30) == "cancelled"


def test_only_the_cancelled_run_is_interrupted(clock: Clock, task: Task) -> None:
    """Cancelled at about the moment when it ends: then or never, and never the next one."""
    outcomes = {"even": set[str](), "odd": set[str]()}
    for n in range(40):
        if n % 2:
            task.backend.revoked.add(str(n))
        outcomes["odd" if n % 2 else "even"].add(run(clock, task, str(n), 0.01 + n % 7 * 0.01))
    assert outcomes["even"] == {"ended"}
    assert outcomes["odd"] == {"ended", "cancelled"}


def test_signal_that_comes_late_raises_nothing(still: Clock, task: Task) -> None:
    """Python runs a signal's handler some time after the signal."""
    still.arm(task, Request("a"))
    current: Any = still._run
    current.cancelled = True
    still.disarm()
    still._on_signal()
    still.arm(task, Request("b"))
    still._on_signal()
    still.disarm()


def test_task_is_told_once(still: Clock, task: Task) -> None:
    still.arm(task, Request("a"))
    current: Any = still._run
    current.cancelled = True
    with pytest.raises(TaskCancelled):
        still._on_signal()
    still._on_signal()
    still.disarm()


def test_run_that_is_just_over_is_left_alone(still: Clock, task: Task) -> None:
    still.arm(task, Request("a"))
    current: Any = still._run
    current.cancelled, current.over = True, True
    still._on_signal()
    still.disarm()


def test_thread_is_not_woken_by_each_task(clock: Clock, task: Task) -> None:
    """Else it fights with every short task for the interpreter."""
    run(clock, task, "a", 0)
    before = time.monotonic()
    wakes_at = clock._next_look(None)
    assert before + POLICY.started_after <= wakes_at <= time.monotonic() + POLICY.started_after


def test_thread_sleeps_while_nothing_runs(clock: Clock, task: Task) -> None:
    run(clock, task, "a", 0)
    clock._last_due -= 10
    assert clock._next_look(None) == float("inf")
    assert run(clock, task, "b", 0.2) == "ended"
    assert task.backend.started[-1:] == ["b"]
