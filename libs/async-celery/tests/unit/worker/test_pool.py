"""The pool of processes, run for real on an event loop: what Celery's own promises, in its pinned version."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from threading import Timer
from typing import Any

import pytest
from billiard import get_context
from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery import Celery
from celery.concurrency import asynpool, prefork
from celery.exceptions import ImproperlyConfigured
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from async_celery.worker import Policy, install
from async_celery.worker import pool as pool_module
from async_celery.worker.pool import AsynPool, OwnPool, TaskPool
from tests.unit.worker.running_pool import DEADLINE, Given, Running

LARGE = 3_000_000  # bytes: many times what a pipe holds


def echo(value: Any) -> Any:
    return value


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def ignore_the_end(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except SystemExit:
            continue
    return "ended"


def restart_loop(running: Running) -> None:
    """Do what the worker does when it has lost its connection to the broker."""
    running.hub.reset()
    running.pool.flush()
    running.pool.register_with_event_loop(running.hub)
    running._loop = running.hub.create_loop()


def kill_yourself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def make(processes: int, **options: Any) -> Running:
        started.append(Running(processes, **options))
        return started[-1]

    yield make
    for running in started:
        running.close()


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
    "limits", [{"soft_timeout": 0.2, "timeout": 20.0}, {"timeout": 0.3}], ids=["soft", "hard"]
)
def test_a_task_that_its_process_has_not_begun_is_not_over_its_time(
    start: Callable[..., Running], limits: dict[str, float]
) -> None:
    running = start(1)
    (process,) = running.pool._pool
    os.kill(process.pid, signal.SIGSTOP)
    task = running.give(echo, 1, **limits)
    running.turn_for(1.0)
    assert task.result is None
    os.kill(process.pid, signal.SIGCONT)
    assert task.wait() == 1
    assert task.accepted_by == [process.pid]
    # Its time was not for ever.
    limited = running.give(pid_after, 60.0, **limits).wait()
    assert isinstance(limited, ExceptionInfo)
    assert limited.type is (SoftTimeLimitExceeded if "soft_timeout" in limits else TimeLimitExceeded)


@pytest.mark.parametrize("how", ["_on_soft_timeout", "_on_hard_timeout"])
def test_a_task_that_has_ended_unseen_is_not_over_its_time(start: Callable[..., Running], how: str) -> None:
    running = start(1)
    (process,) = running.pool._pool
    task = running.give(pid_after, 0.05)
    running.turn()
    wait_unseen(process, task)
    time.sleep(0.3)
    soft = (0.1, None, running.hub) if how == "_on_soft_timeout" else ()
    getattr(running.pool, how)(task.job._job, *soft)
    assert task.result == (process.pid,)
    assert running.give(pid_after, 0.0).wait() == process.pid


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
    # As long as it waits when there is nothing, or nothing but a task ahead.
    assert max((wait for wait in waits[:-1] if wait > pool_module._LONG), default=1) == 1


def test_processes_are_replaced_after_so_many_tasks(start: Callable[..., Running]) -> None:
    running = start(1, maxtasksperchild=2)
    pids = [running.give(pid_after, 0.0) for _ in range(5)]
    assert len({task.wait() for task in pids}) == 3


def test_a_loop_that_begins_anew_finds_what_runs(start: Callable[..., Running]) -> None:
    """The connection to the broker was lost: what runs ends, what waits is forgotten and comes back."""
    running = start(1)
    runs, waits = running.give(pid_after, 0.3), running.give(echo, 1)
    running.turn()
    restart_loop(running)
    assert runs.wait() == running.pool._pool[0].pid
    assert waits.job._job not in running.pool._cache
    assert running.give(echo, 2).wait() == 2


@pytest.fixture
def no_task_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, tasks are written ahead."""
    monkeypatch.setattr(pool_module, "_LONG", DEADLINE)


def ahead(running: Running, second: Callable[[], Given], *, behind: Given) -> Given:
    """Have a task written ahead behind one that was given to the only process."""
    (process,) = running.pool._pool
    running.until(lambda: process.begun.value == behind.job._job)
    task = second()
    running.turn()
    assert process.ahead is task.job
    return task


def wait_unseen(process: Any, task: Given) -> None:
    """Wait until a process has begun a task, while the main process sees none of it."""
    deadline = time.monotonic() + DEADLINE
    while process.begun.value != task.job._job:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("no_task_is_long")
def test_a_task_is_written_ahead_and_counts_as_begun_after_the_one_before(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    task = ahead(running, lambda: running.give(echo, 1), behind=running.give(pid_after, 0.3))
    assert task.accepted_by == []
    assert running.pool.has_waiting
    assert not running.pool.outbound_buffer
    assert task.wait() == 1
    assert task.accepted_by == [process.pid]
    assert not running.pool.has_waiting
    assert not running.pool._busy_workers


def test_a_task_does_not_stay_behind_a_long_one(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    long = running.give(pid_after, 1.0)
    running.turn()
    while process.begun.value != long.job._job:
        time.sleep(0.0001)
    long.job._time_accepted = time.monotonic()  # as if this machine had been quick
    task = running.give(echo, 1)
    running.turn()
    assert process.ahead is task.job
    running.until(lambda: process.ahead is None)
    assert task.result is None
    assert list(running.pool.outbound_buffer) == [task.job]
    running.turn_for(0.1)
    assert process.ahead is None
    assert task.wait() == 1


def test_one_timer_looks_for_long_tasks(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(2)
    timers, write = len(running.hub.timer), running.pool._write_ahead
    written: list[bool] = []

    def count(*args: Any) -> bool:
        written.append(write(*args))
        return written[-1]

    monkeypatch.setattr(running.pool, "_write_ahead", count)
    for _ in range(20):
        for task in [running.give(pid_after, 0.002) for _ in range(20)]:
            task.wait()
        # Each time there was none ahead in between.
        assert not running.pool._ahead
    assert written.count(True) > 20
    assert len(running.hub.timer) <= timers + 1
    running.until(lambda: not running.pool._looks_for_long)


@pytest.mark.usefixtures("no_task_is_long")
def test_a_task_leaves_its_place_for_an_idle_process(start: Callable[..., Running]) -> None:
    running = start(2)
    long, short = running.give(pid_after, 3.0), running.give(pid_after, 0.4)
    running.turn_for(0.1)
    tasks = [running.give(pid_after, 0.0) for _ in range(2)]
    running.turn()
    assert len(running.pool._ahead) == 2
    assert [task.wait() for task in tasks] == [short.wait()] * 2
    assert long.result is None


@pytest.mark.usefixtures("no_task_is_long")
def test_what_is_larger_than_a_page_is_not_written_ahead(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    first = running.give(pid_after, 0.3)
    running.until(lambda: process.begun.value == first.job._job)
    large = running.give(len, bytes(8192))
    running.turn()
    assert list(running.pool.outbound_buffer) == [large.job]
    assert large.wait() == 8192


@pytest.mark.usefixtures("no_task_is_long")
def test_a_task_that_is_ahead_outlives_the_process(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    lost = running.give(pid_after, 60.0)
    task = ahead(running, lambda: running.give(pid_after, 0.0), behind=lost)
    os.kill(process.pid, signal.SIGKILL)
    other = task.wait()
    assert isinstance(lost.wait(), ExceptionInfo)
    assert other == running.pool._pool[0].pid
    assert task.accepted_by == [other]


@pytest.mark.usefixtures("no_task_is_long")
def test_pipes_are_emptied_before_they_are_closed(start: Callable[..., Running]) -> None:
    """A process ends while Celery cleans up after another one, whose end it was told."""
    running = start(1)
    (process,) = running.pool._pool
    ended = running.give(pid_after, 0.2)
    task = ahead(running, lambda: running.give(pid_after, 60.0), behind=ended)
    wait_unseen(process, task)
    behind = running.give(pid_after, 0.0)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    running.pool.on_partial_read(ended.job, process)
    assert process.outq._reader.closed
    assert ended.result == (process.pid,)
    assert not running.pool._ahead
    assert isinstance(task.wait(), ExceptionInfo)
    assert behind.wait() != process.pid


@pytest.mark.usefixtures("no_task_is_long")
def test_what_is_ahead_is_taken_back_before_its_pipe_is_closed(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    lost = running.give(pid_after, 60.0)
    task = ahead(running, lambda: running.give(pid_after, 0.0), behind=lost)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    running.pool.on_partial_read(lost.job, process)
    assert not running.pool._ahead
    assert task.wait() == running.pool._pool[0].pid
    assert len(task.accepted_by) == 1
    assert isinstance(lost.wait(), ExceptionInfo)


def test_a_task_that_was_not_begun_is_known_though_another_process_has_the_pipes_number(
    start: Callable[..., Running],
) -> None:
    """Two processes have ended; the pipes of this one were closed while Celery cleaned up after the other."""
    running = start(2)
    processes = list(running.pool._pool)
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    task = running.give(pid_after, 0.0)
    running.turn()
    (other,) = (process for process in processes if process.pid not in task.accepted_by)
    task.job._write_to = other
    os.kill(other.pid, signal.SIGCONT)
    (pid,) = task.accepted_by
    os.kill(pid, signal.SIGKILL)
    assert isinstance(task.wait(), int)
    assert task.result[0] != pid


def test_what_comes_back_while_the_connection_is_lost_is_forgotten(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    os.kill(process.pid, signal.SIGSTOP)
    task = running.give(echo, 1)
    running.turn()
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    restart_loop(running)
    assert task.job._job not in running.pool._cache
    assert running.give(echo, 2).wait() == 2


@pytest.mark.usefixtures("no_task_is_long")
def test_ending_a_task_leaves_the_one_behind_it(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    task = ahead(running, lambda: running.give(pid_after, 0.0), behind=running.give(pid_after, 60.0))
    running.pool.terminate_job(process.pid, signal.SIGTERM)
    assert task.wait() != process.pid
    assert isinstance(task.result[0], int)
    assert len(task.accepted_by) == 1


@pytest.mark.usefixtures("no_task_is_long")
def test_the_one_behind_is_out_of_the_way_when_a_soft_time_limit_strikes(start: Callable[..., Running]) -> None:
    """Else the signal could hit it: the one before may end just then."""
    running = start(1)
    (process,) = running.pool._pool
    long = running.give(pid_after, 60.0)
    task = ahead(running, lambda: running.give(pid_after, 0.0), behind=long)
    running.pool._on_soft_timeout(long.job._job, 0.1, None, running.hub)
    assert process.ahead is None
    assert isinstance(long.wait(), ExceptionInfo)
    assert task.wait() == process.pid


@pytest.mark.usefixtures("no_task_is_long")
@pytest.mark.parametrize("how", ["terminate", "soft", "hard"])
def test_a_task_that_has_ended_is_not_ended_again_instead_of_the_next(
    start: Callable[..., Running], how: str
) -> None:
    running = start(1)
    (process,) = running.pool._pool
    first = running.give(pid_after, 0.3)
    task = ahead(running, lambda: running.give(pid_after, 1.0), behind=first)
    wait_unseen(process, task)
    if how == "terminate":
        running.pool.terminate_job(process.pid, signal.SIGTERM)
    elif how == "soft":
        running.pool._on_soft_timeout(first.job._job, 0.01, None, running.hub)
    else:
        running.pool._on_hard_timeout(first.job._job)
    assert first.result == (process.pid,)
    assert task.wait() == process.pid
    assert task.accepted_by == [process.pid]


def test_a_process_that_ends_its_task_instead_of_itself_is_ended(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    stubborn = running.give(ignore_the_end, 0.3)
    running.turn_for(0.1)
    running.pool.terminate_job(process.pid, signal.SIGTERM)
    assert stubborn.wait() == "ended"
    assert running.give(pid_after, 0.0).wait() not in (process.pid, None)


@pytest.mark.usefixtures("no_task_is_long")
def test_what_is_ahead_is_forgotten_with_the_connection(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    task = ahead(running, lambda: running.give(echo, 1), behind=running.give(pid_after, 0.5))
    running.pool.take_all_back()
    assert process.ahead is None
    restart_loop(running)
    assert task.job._job not in running.pool._cache
    assert running.give(echo, 2).wait() == 2
    assert task.result is None


@pytest.mark.usefixtures("no_task_is_long")
def test_what_was_ahead_and_has_begun_outlives_the_connection(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    task = ahead(running, lambda: running.give(pid_after, 1.0), behind=running.give(pid_after, 0.3))
    wait_unseen(process, task)
    restart_loop(running)
    assert task.accepted_by == [process.pid]
    assert task.wait() == process.pid


def test_a_result_that_came_in_part_outlives_the_connection(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    large = running.give(bytes, LARGE)
    running.until(lambda: bool(process.told))
    restart_loop(running)
    assert large.wait() == bytes(LARGE)
    assert running.give(echo, 1).wait() == 1


def test_a_task_that_is_written_in_part_outlives_the_connection(start: Callable[..., Running]) -> None:
    running = start(1)
    (process,) = running.pool._pool
    os.kill(process.pid, signal.SIGSTOP)
    large = running.give(len, bytes(LARGE))
    running.until(lambda: bool(running.pool._active_writes))
    Timer(0.3, os.kill, (process.pid, signal.SIGCONT)).start()
    restart_loop(running)
    assert large.wait() == LARGE
    assert large.accepted_by == [process.pid]
    assert running.give(echo, 1).wait() == 1


def test_processes_that_end_together_are_seen(start: Callable[..., Running]) -> None:
    running = start(3)
    ended = list(running.pool._pool)
    for process in ended:
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE
    while any(process in running.pool._pool for process in ended):
        # Not by the timer: it looks every five seconds.
        assert time.monotonic() < deadline
        next(running._loop)
    assert running.give(echo, 1).wait() == 1


def test_a_loop_that_begins_anew_watches_a_process_that_is_about_to_end(start: Callable[..., Running]) -> None:
    running = start(2)
    process = running.pool._pool[0]
    running.pool._untrack_child_process(process, running.hub)
    restart_loop(running)
    assert process._sentinel_poll is not None
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE
    while process in running.pool._pool:
        assert time.monotonic() < deadline
        next(running._loop)


def test_it_lets_in_what_may_be_ahead(start: Callable[..., Running]) -> None:
    lets_in = LaxBoundedSemaphore(2)
    running = start(2, semaphore=lets_in)
    assert lets_in.value == lets_in.initial_value == 4
    running.pool.grow(1)
    assert lets_in.initial_value == 6
    running.pool.shrink(2)
    assert lets_in.initial_value == 2


def test_processes_are_forked() -> None:
    made: Any = AsynPool
    with pytest.raises(ImproperlyConfigured, match="start method"):
        made(1, threads=False, context=get_context("spawn"))


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
            "_accept",
            "_go_on",
            "_is_run",
            "_next_waiting",
            "_take_back_from_long",
            "_write_ahead",
            "read",
            "take_all_back",
            "take_back",
            "Worker",
            "ResultHandler",
        }
        assert [name for name in own if name not in added and not hasattr(theirs, name)] == []
    assert not hasattr(asynpool.Worker, "begun")
