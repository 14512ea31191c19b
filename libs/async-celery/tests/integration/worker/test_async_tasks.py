"""`async def` tasks on real workers: one loop, interrupted where they await, and nothing left behind."""

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import chain, chord

from async_celery.worker import Policy

from ..conftest import Address
from ..faults import scaled
from .async_app import events_of
from .conftest import WorkerFactory
from .test_task_faults import cancel, running
from .worker_process import WorkerProcess, wait_until

APP = "tests.integration.worker.async_app:app"
FAST = Policy(started_after=0.05, cancel_check_interval=0.02, cancel_grace=2)


@pytest.fixture(scope="module")
def worker(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One process, which looks for cancellations often."""
    folder = tmp_path_factory.mktemp("worker")
    with WorkerProcess(folder, broker=vhost, backend=backend.url(), policy=FAST, app=APP) as worker:
        yield worker


@pytest.fixture(autouse=True)
def _no_events_yet(request: pytest.FixtureRequest) -> None:
    if "worker" in request.fixturenames:
        events_of(request.getfixturevalue("worker").settings).unlink(missing_ok=True)


def events(worker: WorkerProcess) -> list[str]:
    file = events_of(worker.settings)
    return file.read_text().split("\n")[:-1] if file.exists() else []


def where(worker: WorkerProcess) -> dict[str, int]:
    place: dict[str, int] = worker.ended(worker.send("where"), 20)["result"]
    return place


def test_tasks_share_a_loop_and_what_is_open_on_it(worker: WorkerProcess) -> None:
    tasks = [worker.send("where") for _ in range(scaled(20, 200))]
    places = [worker.ended(task)["result"] for task in tasks]
    assert len({tuple(place.values()) for place in places}) == 1
    assert places[0]["opened_by"] == places[0]["pid"] in worker.children()


def test_soft_limit_cancels(worker: WorkerProcess) -> None:
    before = where(worker)
    meta = worker.ended(worker.send("hold_on", soft_time_limit=1, time_limit=5))
    assert meta["status"] == "FAILURE"
    assert "SoftTimeLimitExceeded" in repr(meta["result"])
    assert "cleaned up" in events(worker)
    assert where(worker) == before


def test_cancelled_task_is_cancelled(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    before = where(worker)
    task = worker.send("hold_on")
    running(worker, task)
    cancel(redis_client, task)
    assert worker.ended(task)["status"] == "REVOKED"
    assert "cleaned up" in events(worker)
    assert where(worker) == before


def test_cancelled_task_that_never_awaits_is_killed(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    before = where(worker)
    task = worker.send("block")
    running(worker, task)
    cancel(redis_client, task)
    assert worker.ended(task)["status"] == "REVOKED"
    assert where(worker)["pid"] != before["pid"]


def test_cancelling_as_tasks_end_never_hits_another(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    """R14, as for functions: each cancel comes at about the moment when its task ends and the next one begins."""
    count, before = scaled(15, 500), where(worker)
    moments = random.Random(14)
    cancelled, innocent = [], []
    for _ in range(count):
        cancelled.append(worker.send("hold_on", 0.1))
        innocent.append(worker.send("hold_on", 0.005))
        running(worker, cancelled[-1])
        time.sleep(moments.uniform(0.02, 0.12))
        cancel(redis_client, cancelled[-1])
    states = [worker.ended(task)["status"] for task in cancelled]
    assert [worker.ended(task)["status"] for task in innocent] == ["SUCCESS"] * count
    in_time = states.count("REVOKED")
    print(f"R14, async: {count} cancels, {in_time} in time")  # noqa: T201 (what a fault test has to tell)
    assert 0 < in_time < count, "the race did not take place"
    # One that was cancelled before it began to wait has had nothing to clean up.
    assert in_time - 1 <= events(worker).count("cleaned up") <= in_time
    assert where(worker) == before


def test_what_is_left_running_is_cancelled_and_told(worker: WorkerProcess) -> None:
    task = worker.send("leave_running")
    assert worker.ended(task)["result"] == "left-behind"
    assert f"Task leave_running[{task}] leaves an asyncio task running" in worker.text
    assert "name='left-behind'" in worker.text


def test_workflows_retries_and_failures(worker: WorkerProcess) -> None:
    plus: Any = worker.client.signature("plus", args=(1,))
    last = chain(worker.client.signature("plus", args=(1, 1)), plus, plus).apply_async()
    body = chord([worker.client.signature("plus", args=(n, n)) for n in range(3)], app=worker.client)(
        worker.client.signature("plus_all")
    )
    stumbling, failing = worker.send("stumble"), worker.send("raise_error")
    assert worker.ended(last.id)["result"] == 4
    assert worker.ended(body.id)["result"] == 6
    assert worker.ended(stumbling)["result"] == 1
    meta = worker.ended(failing)
    assert meta["status"] == "FAILURE"
    assert "LookupError" in repr(meta["result"])
    # Where it was raised stands in the log.
    assert "in raise_error\n    raise LookupError" in worker.text


# ---- ends of processes ----


def test_a_killed_process_s_task_runs_again(worker: WorkerProcess) -> None:
    task = worker.send("hold_on", 1)
    running(worker, task)
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    assert worker.ended(task)["result"] == "held on"
    assert len(worker.oracle.executions(task)) == 2


def test_each_process_closes_what_is_open(make_worker: WorkerFactory) -> None:
    """Replaced by another one, or ended with its worker, which interrupts its task and gives that back."""
    worker = make_worker(
        app=APP, conf={"worker_max_tasks_per_child": 2, "worker_soft_shutdown_timeout": 0.1}
    ).start()
    places = [where(worker) for _ in range(4)]
    assert len({place["pid"] for place in places}) == 2
    wait_until(lambda: events(worker) == ["opened", "closed"] * 2, what="the second one's end")
    task = worker.send("hold_on")
    running(worker, task)
    worker.signal(signal.SIGQUIT)
    worker.wait()
    assert events(worker)[4:] == ["opened", "cleaned up", "closed"]
    with worker.client.connection_for_read() as connection:
        channel: Any = connection.default_channel
        back: list[Any] = []

        def is_back() -> bool:
            back.append(channel.basic_get(worker.settings.queue))
            return back[-1] is not None

        wait_until(is_back, what="the message's return")
    assert back[-1].headers["id"] == task


def test_other_pools(make_worker: WorkerFactory, redis_client: "redis.Redis") -> None:
    """A loop for each thread, closed with the worker; no signals, so tasks ask whether they are cancelled."""
    workers = [make_worker(app=APP, pool=pool, policy=FAST, queue=pool).launch() for pool in ("solo", "threads")]
    for worker in workers:
        worker.wait_ready()
        assert where(worker) == where(worker)
        task = worker.send("cooperate_on")
        running(worker, task)
        cancel(redis_client, task)
        assert worker.ended(task)["status"] == "REVOKED"
        assert where(worker)["pid"] == worker.process.pid
        worker.signal(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [0, 0]
    assert sorted(events(workers[0])) == ["closed", "closed", "opened", "opened"]
