"""A worker's life and death, with the oracle: shut down, killed, stopped, out of memory, with a wrong clock."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from async_celery.tombstones import STOP, key_of
from async_celery.worker import Policy

from ..conftest import Address
from ..faults import SOAK, scaled
from .conftest import WorkerFactory
from .worker_process import WorkerProcess, alive, wait_until


def runs_begun(worker: WorkerProcess, count: int) -> None:
    wait_until(lambda: len(worker.oracle.executions()) >= count, what=f"{count} runs")


def wait_until_begun(worker: WorkerProcess, task: str) -> None:
    wait_until(lambda: bool(worker.oracle.executions(task)), what=f"the start of {task}")


def all_ended(worker: WorkerProcess, tasks: list[str], timeout: float) -> set[str]:
    deadline = time.monotonic() + timeout
    return {worker.ended(task, max(0.1, deadline - time.monotonic()))["status"] for task in tasks}


def consumers(worker: WorkerProcess) -> int:
    """Return how many workers consume the work queue."""
    with worker.client.connection_for_read() as connection:
        channel: Any = connection.default_channel
        count: int = channel.queue_declare(worker.settings.queue, passive=True).consumer_count
    return count


# ---- asked to stop ----


def test_restarts_lose_nothing(make_worker: WorkerFactory) -> None:
    """W5, W6, W7: TERM ends what runs and runs nothing twice; QUIT gives it back; neither is an attempt."""
    restarts, seconds, processes = scaled(2, 50), scaled(1, 6) / 2, 2
    worker = make_worker(
        processes=processes, policy=Policy(max_attempts=1), conf={"worker_soft_shutdown_timeout": 0.2}
    )
    worker.start()
    tasks = [worker.send("sleep", seconds) for _ in range(2 * processes * restarts + processes)]
    duplicated = 0
    for n in range(restarts):
        begun = len(worker.oracle.executions())
        runs_begun(worker, begun + processes)
        warm = n % 2 == 0
        worker.signal(signal.SIGTERM if warm else signal.SIGQUIT)
        started = time.monotonic()
        worker.wait()
        took = time.monotonic() - started
        print(f"{'W5: TERM' if warm else 'W6: QUIT'}: exit after {took:.2f} s, tasks of {seconds:g} s")
        # 2 s, of which billiard sleeps 1 s and Celery's pool up to 0.5 s, and ten for a machine that is busy.
        assert took < (seconds if warm else 0.2) + 2 + 10
        duplicated += 0 if warm else processes
        worker.start()
    assert all_ended(worker, tasks, 30 + len(tasks) * seconds) == {"SUCCESS"}
    assert worker.oracle.verdict(tasks, allowed_extra=duplicated).good
    assert worker.dead_letters() == []
    assert {worker.meta(task)["attempts"] for task in tasks} == {1}


# ---- killed ----


def test_killed_worker_leaves_no_orphans(make_worker: WorkerFactory) -> None:
    """W3."""
    doomed, heir = make_worker(processes=2).start(), make_worker(processes=2)
    tasks = [doomed.send("sleep", 0.5) for _ in range(6)]
    runs_begun(doomed, 2)
    children = doomed.children()
    assert len(children) == 2
    doomed.process.kill()
    doomed.wait()
    orphans = wait_until(lambda: not any(alive(child) for child in children), what="the children's end")
    heir.start()
    took = wait_until(lambda: {run.task_id for run in heir.oracle.executions()} == set(tasks))
    assert all_ended(heir, tasks, 20) == {"SUCCESS"}
    print(f"W3: no child {orphans:.2f} s after the kill, all begun again within {took:.2f} s of the next start")
    assert heir.oracle.verdict(tasks, allowed_extra=2).good


def test_stopped_worker_is_replaced(make_worker: WorkerFactory, tmp_path: Path) -> None:
    """W10: all of it hangs, its heartbeats are missed; then it goes on."""
    heartbeat = 2  # s
    conf = {"broker_heartbeat": heartbeat}
    hung, other = make_worker(processes=2, conf=conf).start(), make_worker(processes=2, conf=conf)
    gate = tmp_path / "gate"
    tasks = [hung.send("hold", str(gate)) for _ in range(2)]
    runs_begun(hung, 2)
    other.start()
    logged = len(hung.text)
    os.killpg(hung.process.pid, signal.SIGSTOP)
    try:
        took = wait_until(lambda: len(other.oracle.executions()) == 4, 20 * heartbeat)
        gate.touch()
        assert all_ended(other, tasks, 20) == {"SUCCESS"}
    finally:
        os.killpg(hung.process.pid, signal.SIGCONT)
    print(f"W10: others had taken over after {took:.2f} s, heartbeat {heartbeat} s")
    # RabbitMQ looks once per heartbeat, and takes the third silent look for the end.
    assert took < 3 * heartbeat + 10
    wait_until(lambda: "Connected to" in hung.text[logged:] and consumers(hung) == 2, 30, what="its return")
    more = [hung.send("sleep", 0.05) for _ in range(20)]
    assert all_ended(other, more, 20) == {"SUCCESS"}
    assert {run.pid for run in other.oracle.executions() if run.task_id in more} & set(hung.children())
    assert other.oracle.verdict(tasks + more, allowed_extra=2).good


# ---- out of memory, out of time ----


@pytest.fixture(scope="module")
def limited(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker with little time and a heartbeat, for what it outlives."""
    folder = tmp_path_factory.mktemp("limited")
    with WorkerProcess(
        folder,
        broker=vhost,
        backend=backend.url(),
        processes=2,
        policy=Policy(heartbeat_file=folder / "alive", heartbeat_interval=0.1),
        conf={"task_soft_time_limit": 0.5, "task_time_limit": 1},
    ) as worker:
        yield worker


def test_out_of_memory_is_a_failure_and_the_parent_lives(limited: WorkerProcess) -> None:
    """W4."""
    task = limited.send("hog", 50 * 1024 * 1024)
    meta = limited.stored(task)
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", "MemoryError")
    assert len(limited.oracle.executions(task)) == 1
    assert limited.ended(limited.send("add", 1, 2))["result"] == 3
    assert "Unrecoverable" not in limited.text
    assert limited.dead_letters() == []


def test_hard_limit_ends_what_does_not_end(limited: WorkerProcess) -> None:
    """W8, W9: what hears nothing, and what swallows the soft limit."""
    started = time.monotonic()
    tasks = {name: limited.send(name) for name in ("stubborn", "swallow")}
    ends = {name: (limited.stored(task), time.monotonic() - started) for name, task in tasks.items()}
    for name, task in tasks.items():
        meta, took = ends[name]
        print(f"W8, W9: {name} FAILURE after {took:.2f} s, limit 1 s")
        assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", "TimeLimitExceeded")
        assert "time limit of 1 s" in meta["result"]["exc_message"][0]
        assert took < 1 + 10
        runs = limited.oracle.executions(task)
        assert len(runs) == 1
        # Its place is taken by a new process.
        wait_until(lambda pid=runs[0].pid: pid not in limited.children() and len(limited.children()) == 2)  # type: ignore[misc]
    assert limited.ended(limited.send("add", 1, 2))["result"] == 3
    assert limited.dead_letters() == []


# ---- signs of life ----


def test_heartbeat_file_tells_a_worker_that_hangs(limited: WorkerProcess) -> None:
    file = limited.settings.policy.heartbeat_file
    assert file is not None

    def age() -> float:
        return time.time() - file.stat().st_mtime

    # A task that runs does not matter.
    limited.send("sleep", 0.4)
    for _ in range(3):
        seen = file.stat().st_mtime_ns
        wait_until(lambda seen=seen: file.stat().st_mtime_ns > seen)  # type: ignore[misc]
    limited.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: age() > 1)
    finally:
        limited.signal(signal.SIGCONT)
    wait_until(lambda: age() < 0.5)


# ---- clocks ----


def test_wrong_clocks(make_worker: WorkerFactory) -> None:
    """W18: nothing expired runs, nothing fresh is dropped beyond the skew."""
    workers = {skew: make_worker(queue=f"work-{skew}") for skew in (300, -300)}
    expired, fresh = [], []
    for worker in workers.values():
        expired += [worker.send("add", 1, n, expires=0.2) for n in range(3)]
        fresh += [worker.send("add", 1, n, expires=600) for n in range(3)]
    time.sleep(0.3)
    for skew, worker in workers.items():
        worker.launch(TASKS_APP_SKEW=str(skew))
    assert all_ended(worker, fresh, 20) == {"SUCCESS"}
    # Three letters each from two queues, and none of them was a task.
    letters: list[Any] = []

    def all_there() -> bool:
        letters.extend(worker.dead_letters())
        return len(letters) >= len(expired)

    wait_until(all_there, what="the dead letters")
    assert {str(letter.headers["id"]) for letter in letters} == set(expired)
    assert {letter.headers["x-death"][0]["reason"] for letter in letters} == {"expired"}
    assert worker.oracle.verdict(fresh).good


# ---- for long ----


def resident(pid: int) -> float:
    """Return the memory of a process, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_memory_stays_flat(limited: WorkerProcess) -> None:
    """W17: a third of the tasks fail, the connection is lost now and then."""
    rounds, size = scaled(3, 20), 10_000 if SOAK else scaled(150, 2500)
    sizes: list[tuple[float, float]] = []
    accepted: list[str] = []
    for n in range(rounds):
        names = ("fail", "echo", "echo")
        batch = [limited.send(names[n % 3], "x" * 100) for n in range(size)]
        all_ended(limited, batch, 60 + size / 50)
        accepted += batch
        sizes.append((resident(limited.process.pid), max(resident(pid) for pid in limited.children())))
        if n == 0 or rounds > 10:
            limited.lose_connection()
    parent, child = zip(*sizes, strict=True)
    print(f"W17: {rounds * size} tasks, RSS in MB of the parent {parent}, of the larger child {child}")
    runs = Counter(run.task_id for run in limited.oracle.executions())
    print(f"W17: lost {sum(not runs[task] for task in accepted)} of {len(accepted)}")
    assert all(runs[task] for task in accepted)
    # Each failure leaves Python's garbage collector its traceback; a child levels off after some thousand.
    assert max(child) < 250
    if len(sizes) > 10:
        units = (len(sizes) - 6) * size / 10_000
        slopes = [(after - before) / units for before, after in zip(sizes[5], sizes[-1], strict=True)]
        print(f"W17: {slopes} MB per 10,000 tasks")
        assert max(slopes) < 1
    else:
        assert parent[-1] - parent[0] < 5


# ---- other pools ----


def test_other_pools_stop_what_asks(make_worker: WorkerFactory, redis_client: "redis.Redis") -> None:
    policy = Policy(cancel_check_interval=0.1, cancel_grace=0.2)
    workers = [make_worker(pool=pool, queue=f"work-{pool}", policy=policy) for pool in ("solo", "threads")]
    for worker in workers:
        redis_client.set(key_of(f"never-{worker.name}"), STOP, ex=60)
        worker.launch()
    for worker in workers:
        never = worker.send("add", 1, 2, task_id=f"never-{worker.name}")
        assert worker.ended(never, 20)["status"] == "REVOKED"
        assert worker.oracle.executions(never) == []
        task = worker.send("cooperate")
        wait_until_begun(worker, task)
        redis_client.set(key_of(task), STOP, ex=60)
        assert worker.ended(task)["status"] == "REVOKED"
        assert worker.ended(worker.send("add", 1, 2))["result"] == 3
