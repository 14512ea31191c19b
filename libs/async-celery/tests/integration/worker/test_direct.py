"""The direct way on real workers: it is taken where it may be, and ends as the long way does.

How it works: two workers, of which one sends events of tasks. That one's messages all go the long way.
"""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from celery import chain

from async_celery.types import HISTORY
from async_celery.worker import Policy

from ..conftest import Address
from ..redis_server import RedisServer
from .conftest import WorkerFactory
from .test_task_faults import cancel, running
from .worker_process import WorkerProcess, wait_until

APP = "tests.integration.worker.direct_app:app"
FAST = Policy(started_after=0.05, cancel_check_interval=0.05, cancel_grace=1, max_result_bytes=1_000_000)
DIRECT, LONG = "direct", "long"


@pytest.fixture(scope="module")
def workers(
    vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, WorkerProcess]]:
    with ExitStack() as stack:
        yield {
            way: stack.enter_context(
                WorkerProcess(
                    tmp_path_factory.mktemp(way),
                    broker=vhost,
                    backend=backend.url(),
                    policy=FAST,
                    app=APP,
                    pool="asyncio",
                    processes=10,
                    queue=way,
                    options=("--task-events",) if way == LONG else (),
                )
            )
            for way in (DIRECT, LONG)
        }


@pytest.fixture
def worker(workers: dict[str, WorkerProcess]) -> WorkerProcess:
    return workers[DIRECT]


@pytest.mark.parametrize("task", ["plain", "bound", "retrying", "limited_softly", "of_class"])
def test_plain_tasks_go_the_direct_way(workers: dict[str, WorkerProcess], task: str) -> None:
    for way, worker in workers.items():
        assert worker.ended(worker.send(task))["result"] == way
        assert worker.ended(worker.send(task, compression="gzip"))["result"] == way


@pytest.mark.parametrize(
    "task", ["handling", "calling", "acknowledged_early", "started_at_once", "checked", "rationed"]
)
def test_tasks_with_more_around_them_go_the_long_way(worker: WorkerProcess, task: str) -> None:
    assert worker.ended(worker.send(task))["result"] == LONG


def test_messages_that_ask_for_more_go_the_long_way(worker: WorkerProcess) -> None:
    plain: Any = worker.client.signature("plain", queue=DIRECT, immutable=True)
    later = worker.send("plain", countdown=1)
    first_of_two: Any = chain(plain, plain).apply_async()
    linked = plain.apply_async(link=plain.clone())
    assert worker.ended(later)["result"] == LONG
    assert worker.ended(first_of_two.parent.id)["result"] == LONG
    assert worker.ended(first_of_two.id)["result"] == DIRECT
    assert worker.ended(linked.id)["result"] == LONG


def test_a_worker_that_grows_and_shrinks_is_told_of_each_message(make_worker: WorkerFactory) -> None:
    worker = make_worker(app=APP, pool="asyncio", policy=FAST, options=("--autoscale=20,5",)).start()
    assert worker.ended(worker.send("plain"))["result"] == LONG


def normalized(value: Any, task: str) -> Any:
    """What is the same of two tasks that end in the same way."""
    text = re.sub(r"\b0x[0-9a-f]+\b|\d+\.\d+s?\b|\[?\d{4}-\d\d-\d\d[T ][^,\]'\"]*", "…", str(value))
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", lambda found: "ID" if found[0] == task else "OTHER", text)
    return re.sub(r"\bw[0-9a-f]{8}@\w+|\b(direct|long)\b", "…", text)


def history_of(task: str, redis_client: "redis.Redis") -> list[Any]:
    entries: Any = redis_client.xrevrange(HISTORY, count=1000)
    return [sorted(fields.items()) for _, fields in entries if fields[b"id"].decode() == task]


KINDS = (
    "object",
    "time",
    "nothing",
    "no JSON",
    "too large",
    "error",
    "odd error",
    "reject",
    "retry",
    "retry once",
    "send",
    "send and fail",
    "cancelled within",
    "too long",
    "leave",
)


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_end_alike(workers: dict[str, WorkerProcess], redis_client: "redis.Redis", kind: str) -> None:
    seen = {}
    for way, worker in workers.items():
        task = worker.send("act", kind, 7)
        stored = worker.stored(task)
        last = " raised " if stored["status"] == "FAILURE" and kind == "error" else ""
        wait_until(lambda: task in worker.text and last in worker.text, what="the log")  # noqa: B023
        seen[way] = {
            "stored": {name: normalized(value, task) for name, value in stored.items() if name != "timeline"},
            "known of its time": sorted(stored["timeline"]),
            "history": normalized(history_of(task, redis_client), task),
            "runs": len(worker.oracle.executions(task)),
            "dead letters": [normalized(letter.headers["id"], task) for letter in worker.dead_letters()],
            "log": sorted(
                normalized(line.partition("] ")[2] or line, task)
                for line in settled(worker, task)
                if task in line
            ),
        }
    assert seen[DIRECT] == seen[LONG]
    assert seen[DIRECT]["runs"] >= 1


def settled(worker: WorkerProcess, task: str) -> list[str]:
    """The lines of its log when the last one about a task has come."""
    marker = worker.send("plain")
    worker.ended(marker)
    said = f"plain[{marker}] succeeded"
    wait_until(lambda: said in worker.text, what="the log")
    assert task in worker.text
    return worker.text.splitlines()


def test_a_result_that_nobody_wants_is_not_stored(workers: dict[str, WorkerProcess]) -> None:
    for worker in workers.values():
        task = worker.send("ignoring")
        wait_until(lambda: f"ignoring[{task}] succeeded" in worker.text, what="its end")  # noqa: B023
        assert worker.meta(task)["status"] == "PENDING"


def test_wrong_arguments_fail(workers: dict[str, WorkerProcess]) -> None:
    results = [worker.ended(worker.send("act")) for worker in workers.values()]
    assert {meta["status"] for meta in results} == {"FAILURE"}
    assert len({repr(meta["result"]) for meta in results}) == 1
    assert "missing 1 required positional argument: 'how'" in repr(results[0]["result"])


def test_cancelled_on_either_way(workers: dict[str, WorkerProcess], redis_client: "redis.Redis") -> None:
    stored = {}
    for way, worker in workers.items():
        before, during = worker.send("plain", countdown=1), worker.send("hold_on", 60)
        cancel(redis_client, before)
        running(worker, during)
        cancel(redis_client, during)
        stored[way] = [normalized(worker.ended(task)["result"], task) for task in (before, during)]
        assert worker.meta(during)["status"] == "REVOKED"
    assert stored[DIRECT] == stored[LONG]


def test_one_that_was_cancelled_or_has_expired_while_it_waited_never_runs(
    worker: WorkerProcess, redis_client: "redis.Redis"
) -> None:
    busy = [worker.send("hold_on", 1.5) for _ in range(10)]
    for task in busy:
        running(worker, task)
    # The broker's own expiry would take it off the queue without a word.
    expired = worker.client.send_task("act", ("nothing",), headers={"expires": "2020-01-01T00:00:00+00:00"}).id
    cancelled = worker.send("act", "nothing")
    cancel(redis_client, cancelled)
    for task in (expired, cancelled):
        assert worker.ended(task)["status"] == "REVOKED"
        assert worker.oracle.executions(task) == []


def test_remote_control_sees_what_goes_the_direct_way(worker: WorkerProcess) -> None:
    control: Any = worker.client.control
    inspect = control.inspect([worker.node], timeout=5, limit=1)
    task = worker.send("hold_on", 60)
    running(worker, task)
    (active,) = inspect.active().values()
    (shown,) = (one for one in active if one["id"] == task)
    assert (shown["name"], shown["args"], shown["acknowledged"]) == ("hold_on", [60], False)
    control.revoke(task, terminate=True)
    assert worker.ended(task)["status"] == "REVOKED"
    (stats,) = inspect.stats().values()
    assert stats["total"]["hold_on"] >= 1


# ---- between the question to Redis and the body ----


def test_one_that_is_cancelled_while_it_waits_for_room_never_runs(
    make_worker: WorkerFactory, redis_client: "redis.Redis"
) -> None:
    """Redis is asked once more when there is room."""
    worker = make_worker(
        app=APP, pool="asyncio", processes=2, policy=FAST, conf={"worker_prefetch_multiplier": 10}
    ).start()
    busy = [worker.send("hold_on", 3) for _ in range(2)]
    waiting = [worker.send("act", "nothing") for _ in range(10)]
    for task in waiting:
        wait_until(lambda: f"act[{task}] received" in worker.text, what="its message")  # noqa: B023
    for task in waiting[::2]:
        cancel(redis_client, task)
    states = [worker.ended(task)["status"] for task in waiting]
    assert states == ["REVOKED", "SUCCESS"] * 5
    assert [len(worker.oracle.executions(task)) for task in waiting] == [0, 1] * 5
    assert {worker.ended(task)["status"] for task in busy} == {"SUCCESS"}


def test_what_a_lost_connection_has_brought_does_not_begin(
    make_worker: WorkerFactory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Redis was asked about it, and answers when the broker has given it to the next connection."""
    own_redis = RedisServer(tmp_path_factory.mktemp("redis"), keeps=True)
    own_redis.start()
    try:
        worker = make_worker(
            app=APP,
            pool="asyncio",
            processes=20,
            policy=FAST,
            backend=own_redis.url(),
            conf={"redis_socket_timeout": 60},
        ).start()
        worker.ended(worker.send("plain"))
        own_redis.hang()
        tasks = [worker.send("act", "nothing") for _ in range(20)]
        for task in tasks:
            wait_until(lambda: f"act[{task}] received" in worker.text, what="its message")  # noqa: B023
        worker.lose_connection()
        for task in tasks:
            wait_until(lambda: worker.text.count(f"act[{task}] received") == 2, what="it again")  # noqa: B023
        time.sleep(1.5)  # no time of the soft limit passes before a body begins
        own_redis.go_on()
        assert [worker.ended(task)["result"] for task in tasks] == [None] * 20
        assert [len(worker.oracle.executions(task)) for task in tasks] == [1] * 20
    finally:
        own_redis.close()
