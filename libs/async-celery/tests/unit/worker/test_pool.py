"""The pool of processes, run for real on an event loop: what Celery's own promises, in its pinned version."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery import Celery
from celery.concurrency import asynpool, prefork
from kombu.asynchronous import Hub

from async_celery.worker import Policy, install
from async_celery.worker.pool import AsynPool, OwnPool, TaskPool

DEADLINE = 30.0  # s
LARGE = 3_000_000  # bytes: many times what a pipe holds


def echo(value: Any) -> Any:
    return value


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def kill_yourself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Running:
    """A pool, and the event loop that it is on."""

    def __init__(self, processes: int, **options: Any) -> None:
        self.hub = Hub()
        made: Any = AsynPool
        self.pool = made(
            processes, threads=False, synack=False, lost_worker_timeout=0.0, enable_timeouts=True, **options
        )
        self.pool.register_with_event_loop(self.hub)
        self.hub.call_repeatedly(0.02, lambda: None)  # no turn waits for long
        self._loop = self.hub.create_loop()
        self.until(lambda: len(self.pool._all_inqueues) == processes)

    def until(self, what: Callable[[], bool]) -> None:
        """Turn the loop until something is so."""
        deadline = time.monotonic() + DEADLINE
        while not what():
            assert time.monotonic() < deadline
            next(self._loop)
            self.pool.maintain_pool()

    def turn(self) -> None:
        self.hub.call_soon(lambda: None)
        next(self._loop)

    def give(self, function: Callable[..., Any], *args: Any, **limits: float) -> "Given":
        return Given(self, function, args, limits)

    def turn_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)


class Given:
    """A task that the pool was given."""

    def __init__(
        self, running: Running, function: Callable[..., Any], args: tuple[Any, ...], limits: dict[str, float]
    ) -> None:
        self.result: Any = None
        self.accepted_by: list[int] = []
        self._running = running
        self.job = running.pool.apply_async(
            function,
            args,
            callback=self._ends,
            error_callback=self._ends,
            accept_callback=lambda pid, _: self.accepted_by.append(pid),
            **limits,
        )

    def _ends(self, result: Any) -> None:
        self.result = (result,)

    def wait(self) -> Any:
        self._running.until(lambda: self.result is not None)
        return self.result[0]


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def make(processes: int, **options: Any) -> Running:
        started.append(Running(processes, **options))
        return started[-1]

    yield make
    for running in started:
        running.pool.terminate()
        running.pool.join()
        running.hub.close()


def test_tasks_run_and_their_results_come_back(start: Callable[..., Running]) -> None:
    running = start(2)
    tasks = [running.give(echo, number) for number in range(200)]
    assert [task.wait() for task in tasks] == list(range(200))
    assert not running.pool._cache
    assert sum(running.pool.write_stats.values()) == 200


def test_what_does_not_fit_into_a_pipe_goes_through_it(start: Callable[..., Running]) -> None:
    running = start(2)
    tasks = [running.give(echo, bytes([number]) * LARGE) for number in range(6)]
    small = [running.give(echo, number) for number in range(6)]
    assert [task.wait() == bytes([number]) * LARGE for number, task in enumerate(tasks)] == [True] * 6
    assert [task.wait() for task in small] == list(range(6))
    assert not running.pool._active_writers
    assert not running.pool._active_writes


def test_a_process_has_one_task_at_a_time(start: Callable[..., Running]) -> None:
    running = start(2)
    slow, *quick = [running.give(pid_after, seconds) for seconds in (1.0, 0.0, 0.0, 0.0, 0.0)]
    others = {task.wait() for task in quick}
    assert slow.result is None
    assert slow.wait() not in others


def test_what_was_written_to_an_idle_process_is_accepted_by_it(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    tasks = [running.give(pid_after, 0.2), running.give(echo, 1)]
    running.turn()
    assert [task.accepted_by for task in tasks] == [[process.pid], []]
    tasks[1].wait()
    assert [task.accepted_by for task in tasks] == [[process.pid]] * 2


def test_a_task_is_lost_with_its_process(start: Callable[..., Running]) -> None:
    running = start(2)
    lost = running.give(kill_yourself)
    failure = lost.wait()
    assert isinstance(failure, ExceptionInfo)
    assert failure.type is WorkerLostError
    assert running.give(echo, 1).wait() == 1


def test_a_task_that_its_process_had_not_begun_is_run_by_another(start: Callable[..., Running]) -> None:
    """As where the process is replaced after so many tasks, or dies between two."""
    running = start(1)
    (process,) = running.pool._pool
    os.kill(process.pid, signal.SIGSTOP)
    task = running.give(pid_after, 0.0)
    running.turn()
    assert task.accepted_by == [process.pid]
    os.kill(process.pid, signal.SIGKILL)
    other = task.wait()
    assert other != process.pid
    assert task.accepted_by == [process.pid, other]


def test_a_process_that_was_told_to_end_its_task_gets_no_other(start: Callable[..., Running]) -> None:
    """As when the connection is lost: the task may have ended, and its process may still seem idle."""
    running = start(1)
    (process,) = running.pool._pool
    os.kill(process.pid, signal.SIGSTOP)
    running.pool.terminate_job(process.pid, signal.SIGTERM)
    task = running.give(pid_after, 0.0)
    running.turn()
    assert task.accepted_by == []
    os.kill(process.pid, signal.SIGCONT)
    assert task.wait() not in (process.pid, None)
    assert isinstance(task.result[0], int)  # not an error that says that it was terminated


@pytest.mark.parametrize(
    "limits", [{"soft_timeout": 0.05, "timeout": 20.0}, {"timeout": 0.1}], ids=["soft", "hard"]
)
def test_a_task_that_its_process_has_not_begun_is_not_over_its_time(
    start: Callable[..., Running], limits: dict[str, float]
) -> None:
    running = start(1)
    (process,) = running.pool._pool
    os.kill(process.pid, signal.SIGSTOP)
    task = running.give(echo, 1, **limits)
    running.turn_for(0.5)
    assert task.result is None
    os.kill(process.pid, signal.SIGCONT)
    assert task.wait() == 1
    assert task.accepted_by == [process.pid]
    # Its time was not for ever.
    limited = running.give(pid_after, 60.0, **limits).wait()
    assert isinstance(limited, ExceptionInfo)
    assert limited.type is (SoftTimeLimitExceeded if "soft_timeout" in limits else TimeLimitExceeded)


@pytest.mark.parametrize("before", [0, 2])
def test_the_loop_wakes_up_for_a_tasks_time_limit(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    running = start(1)
    running.hub.timer.clear()
    waits: list[float] = []
    poll = running.hub.poller.poll

    def wait(timeout: float) -> Any:
        waits.append(timeout)
        return poll(timeout)

    monkeypatch.setattr(running.hub.poller, "poll", wait)
    running._loop = running.hub.create_loop()
    for _ in range(before):
        running.give(echo, 1)
    limited = running.give(pid_after, 60.0, timeout=0.5)
    deadline = time.monotonic() + DEADLINE
    while not limited.accepted_by and time.monotonic() < deadline:
        next(running._loop)
    assert waits[-1] <= 0.5
    assert max(waits[:-1], default=1) == 1  # as long as it waits when there is nothing


def test_processes_are_replaced_after_so_many_tasks(start: Callable[..., Running]) -> None:
    running = start(1, maxtasksperchild=2)
    pids = [running.give(pid_after, 0.0) for _ in range(5)]
    assert len({task.wait() for task in pids}) == 3


def test_a_loop_that_begins_anew_finds_what_runs(start: Callable[..., Running]) -> None:
    """The connection to the broker was lost: what runs ends, what waits is forgotten and comes back."""
    running = start(1)
    runs, waits = running.give(pid_after, 0.3), running.give(echo, 1)
    running.turn()
    running.hub.reset()
    running.pool.flush()
    running.pool.register_with_event_loop(running.hub)
    running._loop = running.hub.create_loop()
    assert runs.wait() == running.pool._pool[0].pid
    assert waits.job._job not in running.pool._cache
    assert running.give(echo, 2).wait() == 2


def test_install_puts_it_where_prefork_would_be() -> None:
    app = Celery("tests", set_as_current=False)
    install(app, Policy())
    assert "async_celery.worker.pool:OwnPool" in app.steps["worker"]

    class Worker:
        pool_cls: Any = prefork.TaskPool

    worker = Worker()
    OwnPool(worker)
    assert worker.pool_cls is TaskPool
    other = type("Solo", (), {})
    worker.pool_cls = other
    OwnPool(worker)
    assert worker.pool_cls is other


def test_celery_has_what_is_overridden() -> None:
    for ours in (AsynPool, AsynPool.Worker, AsynPool.ResultHandler):
        theirs = ours.__mro__[1]
        own = [name for name, value in vars(ours).items() if callable(value) and not name.startswith("__")]
        added = {
            "_take",
            "_hand_out",
            "_look_again",
            "_give",
            "_write",
            "_read_rest",
            "_has_begun",
            "Worker",
            "ResultHandler",
        }
        assert [name for name in own if name not in added and not hasattr(theirs, name)] == []
    assert not hasattr(asynpool.Worker, "begun")
