"""What a task's start and the clock beside it promise, with real workers: attempts, cancellation, STARTED."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import chord

from async_celery.tombstones import LET_RUN, STOP, key_of
from async_celery.worker import Policy

from ..conftest import Address
from ..faults import scaled
from ..redis_server import RedisServer
from .conftest import WorkerFactory
from .worker_process import WorkerProcess, alive, wait_until

FAST = Policy(started_after=0.05, cancel_check_interval=0.02, cancel_grace=2)


@pytest.fixture(scope="module")
def worker(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """Two processes that look for cancellations often."""
    folder = tmp_path_factory.mktemp("worker")
    with WorkerProcess(folder, broker=vhost, backend=backend.url(), policy=FAST, processes=2) as worker:
        yield worker


def cancel(client: "redis.Redis", task_id: str, reason: str = STOP) -> None:
    client.set(key_of(task_id), reason, ex=60)


def running(worker: WorkerProcess, task_id: str) -> None:
    wait_until(lambda: bool(worker.oracle.executions(task_id)), what=f"the start of {task_id}")


# ---- STARTED ----


def test_only_what_takes_its_time_shows_as_started(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    with redis_client.pubsub() as pushed:  # type: ignore[no-untyped-call]
        pushed.psubscribe("celery-task-meta-*")
        fast, slow = [worker.send("add", 1, n) for n in range(10)], worker.send("sleep", 0.3)
        for task in (*fast, slow):
            worker.ended(task)
        seen: dict[str, list[str]] = {}
        while (message := pushed.get_message(timeout=0.2)) is not None:
            if message["type"] == "pmessage":
                task_id = message["channel"].decode().removeprefix("celery-task-meta-")
                seen.setdefault(task_id, []).append(message["data"].decode().split('"')[3])
    # On a machine that is busy, one of them may take its time; not all.
    assert ["SUCCESS"] in [seen[task] for task in fast]
    assert seen[slow] == ["STARTED", "SUCCESS"]


def test_started_says_where(worker: WorkerProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task = worker.send("hold", str(gate))
    wait_until(lambda: worker.meta(task)["status"] == "STARTED")
    meta = worker.meta(task)
    (run,) = worker.oracle.executions(task)
    assert meta["result"]["pid"] == run.pid
    assert meta["attempts"] == 1
    assert set(meta["timeline"]) == {"published", "received", "started"}
    gate.touch()
    times = worker.ended(task)["timeline"]
    assert times["published"] <= times["received"] <= times["started"] <= times["finished"]


# ---- cancellation ----


def test_cancelled_task_never_starts(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    for reason in (STOP, LET_RUN):
        cancel(redis_client, f"never-{worker.name}-{reason}", reason)
        task = worker.send("add", 1, 2, task_id=f"never-{worker.name}-{reason}")
        assert worker.ended(task)["status"] == "REVOKED"
        assert worker.oracle.executions(task) == []


def test_cancelled_member_fails_its_chord(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    add, total = worker.client.tasks["add"], worker.client.tasks["total"]
    header = [add.s(1, 1).set(task_id=f"member-{n}-{worker.name}") for n in range(3)]
    cancel(redis_client, f"member-1-{worker.name}")
    body = chord(header, app=worker.client)(total.s())
    meta = worker.ended(body.id)
    assert meta["status"] == "FAILURE"
    assert f"member-1-{worker.name}" in str(meta["result"])
    assert worker.oracle.executions(body.id) == []


@pytest.mark.parametrize("name", ["cooperate", "swallow", "spin"])
def test_running_task_is_stopped_and_its_process_goes_on(
    worker: WorkerProcess, redis_client: "redis.Redis", name: str
) -> None:
    children = worker.children()
    task = worker.send(name)
    running(worker, task)
    cancel(redis_client, task)
    assert worker.ended(task)["status"] == "REVOKED"
    assert worker.ended(worker.send("add", 1, 2))["result"] == 3
    assert worker.children() == children
    assert len(worker.oracle.executions(task)) == 1


def test_workflow_is_stopped_by_its_root(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    task = worker.send("sleep", 30, root_id=f"root-{worker.name}")
    running(worker, task)
    cancel(redis_client, f"root-{worker.name}")
    assert worker.ended(task)["status"] == "REVOKED"


def test_what_may_go_on_goes_on(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    task = worker.send("sleep", 0.5)
    running(worker, task)
    cancel(redis_client, task, LET_RUN)
    assert worker.ended(task)["status"] == "SUCCESS"


def test_task_that_will_not_end_is_killed(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    children = worker.children()
    task = worker.send("stubborn")
    running(worker, task)
    cancel(redis_client, task)
    assert worker.ended(task)["status"] == "REVOKED"
    (run,) = worker.oracle.executions(task)
    assert run.pid in children
    wait_until(lambda: run.pid not in worker.children() and len(worker.children()) == 2)
    assert worker.dead_letters() == []


def test_terminate_by_an_operator_cancels(worker: WorkerProcess) -> None:
    """Flower's button: in plain Celery it sends a signal, whoever runs there by then."""
    children = worker.children()
    task = worker.send("sleep", 30)
    running(worker, task)
    worker.client.control.terminate(task, signal="SIGKILL")
    assert worker.ended(task)["status"] == "REVOKED"
    assert worker.children() == children
    assert all(alive(child) for child in children)


def test_cancelling_as_tasks_end_never_hits_another(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    """R14: each cancel comes at about the moment when its task ends and the next one begins."""
    count = scaled(40, 1000)
    children = worker.children()
    moments = random.Random(14)
    cancelled, innocent = [], []
    for _ in range(count):
        cancelled.append(worker.send("sleep", 0.1))
        innocent.append(worker.send("sleep", 0.005))
        running(worker, cancelled[-1])
        time.sleep(moments.uniform(0.02, 0.12))
        cancel(redis_client, cancelled[-1])
    states = [worker.ended(task)["status"] for task in cancelled]
    assert [worker.ended(task)["status"] for task in innocent] == ["SUCCESS"] * count
    in_time = states.count("REVOKED")
    print(f"R14: {count} cancels, {in_time} in time")
    assert 0 < in_time < count, "the race did not take place"
    assert all(len(worker.oracle.executions(task)) == 1 for task in cancelled + innocent)
    assert worker.children() == children


# ---- attempts ----


def test_task_survives_the_death_of_its_process(worker: WorkerProcess) -> None:
    """W1."""
    task = worker.send("die_times", 1)
    meta = worker.ended(task, 20)
    assert (meta["status"], meta["result"], meta["attempts"]) == ("SUCCESS", 2, 2)
    assert len(worker.oracle.executions(task)) == 2


def test_poison_ends_as_failure_and_dead_letter(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    """W2."""
    task = worker.send("die")
    others = [worker.send("add", 1, n) for n in range(10)]
    meta = worker.ended(task, 40)
    assert (meta["status"], meta["attempts"]) == ("FAILURE", FAST.max_attempts)
    assert "WorkerLost" in repr(meta["result"])
    assert len(worker.oracle.executions(task)) == FAST.max_attempts
    assert [worker.ended(other)["status"] for other in others] == ["SUCCESS"] * 10
    letter: Any
    (letter,) = worker.wait_for_dead_letters()
    assert letter.headers["id"] == task
    assert letter.headers["x-death"][0]["reason"] == "rejected"
    assert not redis_client.exists(f"task-attempts:{task}")


def test_retries_count_as_attempts(worker: WorkerProcess) -> None:
    task = worker.send("retry_times", 99, 0)
    meta = worker.ended(task, 20)
    assert meta["status"] == "FAILURE"
    assert "5 times" in repr(meta["result"])
    assert len(worker.oracle.executions(task)) == FAST.max_attempts


def test_deaths_and_retries_are_counted_together(worker: WorkerProcess) -> None:
    task = worker.send("die_and_retry")
    meta = worker.ended(task, 30)
    assert (meta["status"], meta["attempts"]) == ("FAILURE", FAST.max_attempts)
    assert len(worker.oracle.executions(task)) == FAST.max_attempts
    worker.wait_for_dead_letters()


def test_short_countdowns_are_rounded_up(worker: WorkerProcess) -> None:
    task = worker.send("retry_times", 1, 0.5)
    assert worker.ended(task)["result"] == 1


def test_what_has_finished_does_not_run_again(worker: WorkerProcess) -> None:
    task = worker.send("add", 1, 2)
    worker.ended(task)
    worker.send("add", 1, 2, task_id=task)
    wait_until(lambda: f"add[{task}] has finished before" in worker.text)
    assert len(worker.oracle.executions(task)) == 1


def test_own_hooks_run_as_they_did(worker: WorkerProcess, redis_client: "redis.Redis", tmp_path: Path) -> None:
    assert worker.ended(worker.send("hooked", str(tmp_path / "hooks")))["result"] == "called"
    assert (tmp_path / "hooks").read_text().split() == ["before_start", "__call__", "run"]
    cancel(redis_client, f"hooked-{worker.name}")
    worker.ended(worker.send("hooked", str(tmp_path / "none"), task_id=f"hooked-{worker.name}"))
    assert not (tmp_path / "none").exists()


# ---- what the worker sends ----


def test_messages_of_a_worker_keep_the_callers_headers(worker: WorkerProcess) -> None:
    client = worker.client
    chain = client.signature("headers") | client.signature("headers") | client.signature("headers")
    sent = time.time()
    result = chain.apply_async(headers={"x-request-id": "r1"})
    seen = worker.ended(result.id)["result"]
    assert seen["x-request-id"] == "r1"
    assert sent < seen["x-published-at"] < time.time()


def test_a_retry_keeps_them_too(worker: WorkerProcess) -> None:
    task = worker.send("retry_headers", headers={"x-request-id": "r2", "x-published-at": 1.0})
    seen = worker.ended(task)["result"]
    assert seen["x-request-id"] == "r2"
    assert seen["retries"] == 1
    assert abs(seen["x-published-at"] - time.time()) < 60


def test_nothing_follows_a_result_that_is_refused(worker: WorkerProcess) -> None:
    echo = worker.client.tasks["echo"]
    first, following, linked = ids = [f"{name}-{worker.name}" for name in ("first", "following", "linked")]
    one, two, three = (echo.s().set(task_id=task_id) for task_id in ids)
    one = one.clone(args=("x" * FAST.max_result_bytes,))
    one.link(three)
    (one | two).apply_async()
    for task in (first, following):
        assert "ResultTooLarge" in repr(worker.ended(task)["result"])
    # Behind what would have been sent.
    worker.ended(worker.send("add", 1, 2))
    assert worker.oracle.executions(following) == worker.oracle.executions(linked) == []


# ---- Redis away ----


def test_task_waits_for_redis_rather_than_run_cancelled(
    make_worker: WorkerFactory, redis_server: RedisServer
) -> None:
    worker = make_worker(backend=redis_server.url(), conf={"redis_socket_timeout": 1}).start()
    worker.ended(worker.send("add", 1, 2))
    with redis.Redis.from_url(redis_server.url()) as client:
        cancel(client, "cancelled-1")
    redis_server.hang()
    cancelled = worker.send("add", 1, 2, task_id="cancelled-1", ignore_result=True)
    task = worker.send("add", 3, 4, ignore_result=True)
    wait_until(lambda: f"[{cancelled}] received" in worker.text, what="its receipt")
    time.sleep(1)  # in which it would run, if it did not wait
    runs = worker.oracle.executions()
    # To revoke, it asks Redis: whatever comes of that, the main process goes on to answer the broker.
    worker.client.control.revoke("another's")
    answers = worker.client.control.ping(timeout=10, limit=1)
    redis_server.go_on()
    assert answers
    assert len(runs) == 1
    wait_until(lambda: len(worker.oracle.executions(task)) == 1)
    assert worker.oracle.executions(cancelled) == []
