"""The pool `asyncio` on real workers: tasks side by side in one process, with what all pools promise."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group

from async_celery.worker import Policy, dead_letters

from ..conftest import Address
from ..faults import scaled
from ..rabbitmq_server import RabbitServer
from ..redis_server import RedisServer
from .async_app import events_of
from .conftest import WorkerFactory
from .test_task_faults import cancel, running
from .worker_process import WorkerProcess, wait_until

APP = "tests.integration.worker.async_app:app"
FAST = Policy(started_after=0.05, cancel_check_interval=0.05, cancel_grace=1)
SIDE_BY_SIDE = 50


@pytest.fixture(scope="module")
def worker(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One for up to 50 tasks at once, which looks for cancellations often."""
    folder = tmp_path_factory.mktemp("worker")
    with WorkerProcess(
        folder,
        broker=vhost,
        backend=backend.url(),
        policy=FAST,
        app=APP,
        pool="asyncio",
        processes=SIDE_BY_SIDE,
        conf={"worker_prefetch_multiplier": 2},
    ) as worker:
        yield worker


@pytest.fixture
def make_beside(make_worker: WorkerFactory) -> WorkerFactory:
    """Return a function that makes workers with this pool."""

    def make(**options: Any) -> WorkerProcess:
        return make_worker(**{"app": APP, "pool": "asyncio", "processes": 10, "policy": FAST, **options})

    return make


def events(worker: WorkerProcess) -> list[str]:
    file = events_of(worker.settings)
    return file.read_text().split("\n")[:-1] if file.exists() else []


def all_ended(worker: WorkerProcess, tasks: list[str]) -> list[dict[str, Any]]:
    return [worker.ended(task, 60) for task in tasks]


# ---- side by side ----


def test_as_many_tasks_run_at_once_as_the_worker_is_told(worker: WorkerProcess) -> None:
    tasks = [worker.send("meet", SIDE_BY_SIDE) for _ in range(SIDE_BY_SIDE)]
    assert [meta["result"] for meta in all_ended(worker, tasks)] == [SIDE_BY_SIDE] * SIDE_BY_SIDE


@pytest.mark.parametrize("late", [True, False])
def test_no_more_run_at_once_however_many_wait(make_beside: WorkerFactory, late: bool) -> None:
    """Early acknowledged ones are taken from the broker without end: they wait in the worker."""
    worker = make_beside(processes=3, conf={"task_acks_late": late}).start()
    tasks = [worker.send("meet", 4, 0.2) for _ in range(10)]
    assert max(meta["result"] for meta in all_ended(worker, tasks)) == 3
    assert worker.oracle.verdict(tasks).good


def test_each_task_knows_itself_whatever_runs_beside_it(worker: WorkerProcess) -> None:
    coroutines = [worker.send("who") for _ in range(SIDE_BY_SIDE)]
    functions = [worker.send("who_in_thread") for _ in range(10)]
    for task in coroutines:
        assert worker.ended(task)["result"] == [task] * 4
    for task in functions:
        assert worker.ended(task)["result"] == {"id": task, "own": task, "in_main": False}


def test_what_a_task_sends_is_its_child(worker: WorkerProcess) -> None:
    task = worker.send("send_next")
    child = worker.ended(task)["result"]
    assert worker.ended(child)["result"] == 2
    assert worker.stored(child)["parent_id"] == task


def test_tasks_share_what_is_open(worker: WorkerProcess) -> None:
    places = [meta["result"] for meta in all_ended(worker, [worker.send("where") for _ in range(20)])]
    assert len({tuple(place.values()) for place in places}) == 1
    assert places[0]["opened_by"] == places[0]["pid"] == worker.process.pid


def test_workflows_retries_and_failures(worker: WorkerProcess) -> None:
    plus: Any = worker.client.signature("plus", args=(1,))
    last = chain(worker.client.signature("plus", args=(1, 1)), plus, plus).apply_async()
    header = [worker.client.signature("plus", args=(n, n)) for n in range(20)]
    body = chord(header, app=worker.client)(worker.client.signature("plus_all"))
    mixed: Any = group(
        [worker.client.signature("add", args=(n, 1)) | plus for n in range(3)], app=worker.client
    ).apply_async()
    stumbling, failing = worker.send("stumble"), worker.send("raise_error")
    assert worker.ended(last.id)["result"] == 4
    assert worker.ended(worker.send("plus", 1, 1, compression="gzip"))["result"] == 2
    assert worker.ended(body.id)["result"] == 2 * sum(range(20))
    assert [worker.ended(one.id)["result"] for one in mixed.results] == [2, 3, 4]
    assert worker.ended(stumbling)["result"] == 1
    meta = worker.ended(failing)
    assert meta["status"] == "FAILURE"
    assert "LookupError" in repr(meta["result"])
    assert "in raise_error\n    raise LookupError" in worker.text


def test_what_is_left_running_is_cancelled_and_told(worker: WorkerProcess) -> None:
    task = worker.send("leave_running")
    assert worker.ended(task)["result"] == "left-behind"
    assert f"Task leave_running[{task}] leaves an asyncio task running" in worker.text


def test_only_what_takes_its_time_shows_as_started(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    with redis_client.pubsub() as pushed:  # type: ignore[no-untyped-call]
        pushed.psubscribe("celery-task-meta-*")
        fast, slow = [worker.send("plus", 1, n) for n in range(10)], worker.send("hold_on", 0.3)
        all_ended(worker, [*fast, slow])
        seen: dict[str, list[str]] = {}
        while (message := pushed.get_message(timeout=0.2)) is not None:
            if message["type"] == "pmessage":
                task = message["channel"].decode().removeprefix("celery-task-meta-")
                state = message["data"].decode().partition('"status": "')[2].partition('"')[0]
                seen.setdefault(task, []).append(state)
    assert seen[slow] == ["STARTED", "SUCCESS"]
    assert [seen[task] for task in fast] == [["SUCCESS"]] * 10


def test_tasks_leave_nothing_to_the_garbage_collector(worker: WorkerProcess) -> None:
    """What each left would be looked for again and again, among all that runs."""
    worker.ended(worker.send("garbage"))
    before = worker.ended(worker.send("garbage"))["result"]
    all_ended(worker, [worker.send("plus", 1, n) for n in range(200)])
    assert worker.ended(worker.send("garbage"))["result"] < before + 200


# ---- interrupted ----


def test_soft_limit_cancels(worker: WorkerProcess) -> None:
    beside = worker.send("hold_on", 1.5)
    meta = worker.ended(worker.send("hold_on", soft_time_limit=1, time_limit=5))
    assert meta["status"] == "FAILURE"
    assert "SoftTimeLimitExceeded" in repr(meta["result"])
    assert "cleaned up" in events(worker)
    assert worker.ended(beside)["result"] == "held on"


def test_hard_limit_gives_up_what_swallows_the_soft_one(worker: WorkerProcess) -> None:
    beside = worker.send("hold_on", 2)
    meta = worker.ended(worker.send("swallow_on", soft_time_limit=0.5, time_limit=1))
    assert meta["status"] == "FAILURE"
    assert "its time limit of 1 s" in repr(meta["result"])
    assert worker.ended(beside)["result"] == "held on"
    assert worker.dead_letters() == []


def test_cancelled_task_is_cancelled(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    tasks = [worker.send("hold_on", 60) for _ in range(10)]
    beside = worker.send("hold_on", 1)
    for task in tasks:
        running(worker, task)
        cancel(redis_client, task)
    assert {meta["status"] for meta in all_ended(worker, tasks)} == {"REVOKED"}
    assert worker.ended(beside)["result"] == "held on"


def test_cancelled_task_that_swallows_it_is_given_up(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    task = worker.send("swallow_on")
    running(worker, task)
    cancel(redis_client, task)
    assert worker.ended(task)["status"] == "REVOKED"
    said = f"swallow_on[{task}] did not end within 1 s of being cancelled, and runs on"
    wait_until(lambda: said in worker.text, what="a line in the log")


def test_a_function_hears_of_a_cancellation_where_it_asks(
    worker: WorkerProcess, redis_client: "redis.Redis"
) -> None:
    tasks = [worker.send("cooperate"), worker.send("cooperate_on")]
    for task in tasks:
        running(worker, task)
        cancel(redis_client, task)
    assert {meta["status"] for meta in all_ended(worker, tasks)} == {"REVOKED"}


def test_revoked_before_it_starts(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    task = worker.send("plus", 1, 1, countdown=2)
    cancel(redis_client, task)
    assert worker.ended(task)["status"] == "REVOKED"
    assert worker.oracle.executions(task) == []


def test_a_task_that_ends_the_program_ends_itself(worker: WorkerProcess) -> None:
    """As if its process had died: the message comes back, and the worker goes on."""
    beside, task = worker.send("hold_on", 1), worker.send("leave_the_program")
    assert worker.ended(task)["status"] == "SUCCESS"
    assert len(worker.oracle.executions(task)) == 2
    assert worker.ended(beside)["result"] == "held on"


def test_cancelling_as_tasks_end_never_hits_another(worker: WorkerProcess, redis_client: "redis.Redis") -> None:
    """R14: each cancel comes at about the moment when its task ends, with others beside it."""
    count = scaled(15, 300)
    moments = [0.2 * number / count for number in range(count)]  # s: the first is in time, the last too late
    random.Random(14).shuffle(moments)
    cancelled, innocent = [], []
    for moment in moments:
        cancelled.append(worker.send("hold_on", 0.15))
        innocent.append(worker.send("hold_on", 0.1))
        running(worker, cancelled[-1])
        time.sleep(moment)
        cancel(redis_client, cancelled[-1])
    states = [meta["status"] for meta in all_ended(worker, cancelled)]
    assert [meta["status"] for meta in all_ended(worker, innocent)] == ["SUCCESS"] * count
    in_time = states.count("REVOKED")
    print(f"R14, pool asyncio: {count} cancels, {in_time} in time")  # noqa: T201 (what a fault test has to tell)
    assert 0 < in_time < count, "the race did not take place"


# ---- told from outside ----


def test_remote_control(worker: WorkerProcess) -> None:
    """It sees what runs, ends it by its id, and changes how many run."""
    control: Any = worker.client.control
    tasks = [worker.send("hold_on", 60) for _ in range(3)]
    for task in tasks:
        running(worker, task)
    (active,) = control.inspect(timeout=5, limit=1).active().values()
    assert {one["id"] for one in active} >= set(tasks)
    control.revoke(tasks[0], terminate=True)
    assert worker.ended(tasks[0])["status"] == "REVOKED"
    control.pool_shrink(SIDE_BY_SIDE - 2, reply=True, timeout=5, limit=1)
    (stats,) = control.inspect(timeout=5, limit=1).stats().values()
    assert stats["pool"]["max-concurrency"] == 2
    assert stats["pool"]["running"] == 2
    control.pool_grow(SIDE_BY_SIDE - 2, reply=True, timeout=5, limit=1)
    for task in tasks[1:]:
        control.revoke(task, terminate=True)
    assert {meta["status"] for meta in all_ended(worker, tasks)} == {"REVOKED"}
    assert worker.ended(worker.send("meet", 5, 0.1))["status"] == "SUCCESS"


def test_events_tell_of_each_task(make_beside: WorkerFactory) -> None:
    worker = make_beside(options=("--task-events",)).start()
    seen: dict[str, list[str]] = {}

    def note(event: dict[str, Any]) -> None:
        seen.setdefault(event.get("uuid", ""), []).append(event["type"])

    with worker.client.connection_for_read() as connection:
        receiver: Any = worker.client.events.Receiver(connection, handlers={"*": note})
        listening = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        listening.start()
        try:
            wait_until(lambda: "worker-heartbeat" in seen.get("", ()), what="a heartbeat")
            tasks = [worker.send("hold_on", 0.1) for _ in range(5)]
            wait_until(lambda: all("task-succeeded" in seen.get(task, ()) for task in tasks), what="their ends")
        finally:
            receiver.should_stop = True
            listening.join(10)
    assert {tuple(seen[task]) for task in tasks} == {("task-received", "task-started", "task-succeeded")}


# ---- servers that go, workers that end ----


def test_tasks_run_on_while_the_broker_is_away(
    make_beside: WorkerFactory, rabbit_server: RabbitServer, tmp_path: Path
) -> None:
    """As long as it takes to connect again, which Celery's own code waits for without a break."""
    with Celery(broker=rabbit_server.url(), set_as_current=False).connection_for_write() as connection:
        dead_letters.declare(connection)
    gate = tmp_path / "gate"
    worker = make_beside(broker=rabbit_server.url()).start()
    task = worker.send("tick", str(gate))
    running(worker, task)
    rabbit_server.kill()
    wait_until(lambda: "Trying again in" in worker.text, what="an attempt to connect")
    time.sleep(3)
    rabbit_server.start()
    after = worker.send("plus", 1, 1)
    assert worker.ended(after, 60)["result"] == 2
    gate.touch()
    # Celery sleeps 2 s and longer between its attempts.
    assert worker.ended(task)["result"] < 1.5
    assert worker.oracle.verdict([task, after], allowed_extra=1).good


def test_a_lost_connection_loses_no_task(make_beside: WorkerFactory) -> None:
    worker = make_beside(conf={"broker_heartbeat": 2}).start()
    tasks = [worker.send("hold_on", 4) for _ in range(5)] + [worker.send("plus", 1, n) for n in range(100)]
    for task in tasks[:5]:
        running(worker, task)
    worker.lose_connection()
    after = worker.send("plus", 1, 1)
    assert {meta["status"] for meta in all_ended(worker, [*tasks, after])} == {"SUCCESS"}
    # What ran when the connection was lost came back, and ran beside its first run.
    assert worker.oracle.verdict([*tasks, after], allowed_extra=20).good
    assert worker.dead_letters() == []


def test_tasks_wait_for_redis_and_the_others_run_on(
    make_beside: WorkerFactory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own_redis = RedisServer(tmp_path_factory.mktemp("redis"), keeps=True)
    own_redis.start()
    try:
        worker = make_beside(backend=own_redis.url()).start()
        tasks = [worker.send("hold_on", 1) for _ in range(10)]
        for task in tasks:
            running(worker, task)
        own_redis.kill()
        # They end while Redis is away, and begin to wait for it: side by side.
        wait_until(lambda: "Failed operation" in worker.text, what="an end that cannot be stored")
        time.sleep(1)
        own_redis.start()
        assert {meta["status"] for meta in all_ended(worker, tasks)} == {"SUCCESS"}
        assert worker.oracle.verdict(tasks).good
    finally:
        own_redis.close()


def test_a_redis_that_hangs_is_left(make_beside: WorkerFactory, tmp_path_factory: pytest.TempPathFactory) -> None:
    own_redis = RedisServer(tmp_path_factory.mktemp("redis"), keeps=True)
    own_redis.start()
    try:
        worker = make_beside(backend=own_redis.url(), conf={"redis_socket_timeout": 1}).start()
        tasks = [worker.send("hold_on", 1) for _ in range(10)]
        for task in tasks:
            running(worker, task)
        own_redis.hang()
        wait_until(lambda: "does not answer" in worker.text, what="a call that is given up")
        own_redis.go_on()
        assert {meta["status"] for meta in all_ended(worker, tasks)} == {"SUCCESS"}
        assert worker.oracle.verdict(tasks).good
    finally:
        own_redis.close()


def test_asked_to_end_it_ends_its_tasks_first(make_beside: WorkerFactory) -> None:
    worker = make_beside().start()
    tasks = [worker.send("hold_on", 1) for _ in range(30)]
    running(worker, tasks[0])
    assert worker.stop() == 0
    assert events(worker) == ["opened", "closed"]
    begun = {run.task_id for run in worker.oracle.executions()}
    assert len(begun) >= 10
    assert {worker.meta(task)["status"] for task in begun} == {"SUCCESS"}
    worker.start()
    assert {meta["status"] for meta in all_ended(worker, tasks)} == {"SUCCESS"}
    assert worker.oracle.verdict(tasks).good
    assert {worker.meta(task)["attempts"] for task in tasks} == {1}


def test_told_to_end_at_once_it_gives_its_tasks_back(make_beside: WorkerFactory) -> None:
    worker = make_beside(conf={"worker_soft_shutdown_timeout": 0.2}, policy=Policy(max_attempts=1)).start()
    tasks = [worker.send("hold_on", 3) for _ in range(5)]
    for task in tasks:
        running(worker, task)
    worker.signal(signal.SIGQUIT)
    worker.wait()
    assert events(worker).count("cleaned up") == 5
    assert {worker.meta(task)["status"] for task in tasks} <= {"STARTED", "PENDING"}
    worker.start()
    assert {meta["status"] for meta in all_ended(worker, tasks)} == {"SUCCESS"}
    assert worker.oracle.verdict(tasks, allowed_extra=5).good
    assert {worker.meta(task)["attempts"] for task in tasks} == {1}


def test_a_killed_worker_s_tasks_run_again(make_beside: WorkerFactory) -> None:
    doomed, heir = make_beside(), make_beside()
    doomed.start()
    tasks = [doomed.send("hold_on", 2) for _ in range(10)]
    for task in tasks:
        running(doomed, task)
    heir.start()
    os.kill(doomed.process.pid, signal.SIGKILL)
    assert {meta["status"] for meta in all_ended(heir, tasks)} == {"SUCCESS"}
    assert heir.oracle.verdict(tasks, allowed_extra=10).good
    # On a busy machine one may have ended before the kill.
    attempts = [heir.meta(task)["attempts"] for task in tasks]
    assert attempts == [len(heir.oracle.executions(task)) for task in tasks]
    assert max(attempts) == 2


def test_a_storm_of_tasks_and_cuts_loses_nothing(make_beside: WorkerFactory) -> None:
    """Tasks of many lengths, while the connection to the broker is cut again and again."""
    worker = make_beside(processes=20, conf={"broker_heartbeat": 2}).start()
    lengths, cuts = random.Random(7), scaled(1, 10)
    tasks: list[str] = []
    for _ in range(cuts):
        tasks += [worker.send("hold_on", lengths.choice((0, 0, 0.01, 0.1, 1))) for _ in range(100)]
        worker.lose_connection()
    assert {meta["status"] for meta in all_ended(worker, tasks)} == {"SUCCESS"}
    verdict = worker.oracle.verdict(tasks, allowed_extra=40 * cuts)
    print(f"pool asyncio: {cuts} cuts, {verdict}")  # noqa: T201 (what a fault test has to tell)
    assert verdict.good
    assert worker.dead_letters() == []
