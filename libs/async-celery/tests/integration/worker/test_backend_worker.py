"""What the result backend promises when processes, Redis or results fail: with real workers.

What belongs here: faults around the storing of results and the counting of chords. Single calls are in
`test_backend.py`.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, states, uuid

from async_celery.types import HISTORY
from async_celery.worker import Policy

from ..faults import scaled
from ..oracle import Oracle
from ..redis_server import RedisServer
from .conftest import WorkerFactory
from .worker_process import WorkerProcess, wait_until

APP = "tests.integration.worker.backend_app:app"
DEADLINE = 30.0  # s


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of this module's own, that keeps what it has when it is killed."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), keeps=True)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def worker(
    vhost: str, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """Two processes."""
    folder = tmp_path_factory.mktemp("worker")
    worker = WorkerProcess(folder, broker=vhost, backend=own_redis.url(), processes=2, app=APP)
    try:
        yield worker.start(BACKEND_FOLDER=str(folder))
    finally:
        worker.close()


def runs(worker: WorkerProcess) -> list[str]:
    """Return the ids of the runs of this module's own tasks."""
    return [run.task_id for run in Oracle(worker.log.parent / "runs").executions()]


def _chord(worker: WorkerProcess, size: int, *, name: str = "unlucky", **options: Any) -> tuple[list[str], str]:
    """Send a chord; return the ids of its members and of its body."""
    client = worker.client
    header = [client.signature(name, args=(n,), **options) for n in range(size)]
    result: Any = chord(header, client.signature("sum_up"), app=client).apply_async()
    return [child.id for child in result.parent.results], result.id


# ---- results ----


@pytest.mark.parametrize("what", ["object", "nan", "digits", "key"])
def test_w15_a_result_that_is_not_json_is_a_failure(worker: WorkerProcess, what: str) -> None:
    stored = worker.stored(worker.send("give", what))
    assert (stored["status"], stored["result"]["exc_type"]) == ("FAILURE", "EncodeError")
    assert "not JSON" in stored["result"]["exc_message"][0]


def test_r8_a_huge_result_is_a_failure_and_disturbs_nobody(worker: WorkerProcess) -> None:
    backend: Any = worker.client.backend
    with backend.client.pubsub() as pushed:
        pushed.psubscribe("celery-task-meta-*")
        huge = worker.send("fill", scaled(2, 40) * 1024 * 1024)
        others = [worker.send("add", n, n) for n in range(10)]
        stored = worker.stored(huge)
        assert (stored["status"], stored["result"]["exc_type"]) == ("FAILURE", "ResultTooLarge")
        assert [worker.ended(other)["result"] for other in others] == [2 * n for n in range(10)]
        seen: dict[str, int] = {}
        while (message := pushed.get_message(timeout=0.2)) is not None:
            if message["type"] == "pmessage":
                seen[message["channel"].decode()] = len(message["data"])
    assert max(seen.values()) < 10_000
    assert {f"celery-task-meta-{task}" for task in (huge, *others)} <= set(seen)


def test_a_result_just_small_enough_is_stored(worker: WorkerProcess) -> None:
    size = Policy().max_result_bytes - 2  # quotes
    assert len(worker.ended(worker.send("fill", size))["result"]) == size


def test_w14_errors_are_type_message_and_code(worker: WorkerProcess) -> None:
    stored = worker.stored(worker.send("raise_unpicklable"))
    error = stored["result"]
    assert (stored["status"], stored["traceback"]) == ("FAILURE", None)
    assert (error["exc_type"], error["exc_message"], error["code"]) == ("TwoArgumentsError", ["1 and 2"], "two")
    stored = worker.stored(worker.send("raise_unregistered"))
    error = stored["result"]
    assert (error["exc_type"], error["exc_module"], error["code"]) == ("MadeUpError", "nowhere", None)
    assert 1000 < len(error["exc_message"][0]) < 10_000
    assert "Traceback" not in json.dumps(stored)


def test_history_and_meta_tell_how_it_went(worker: WorkerProcess, own_redis: RedisServer) -> None:
    client: Any = own_redis.client
    begin = client.xinfo_stream(HISTORY)["last-generated-id"].decode() if client.exists(HISTORY) else "0"
    done, failed, retried = worker.send("add", 1, 2), worker.send("fail"), worker.send("retry_times", 1)
    metas = {task: worker.stored(task) for task in (done, failed, retried)}
    entries = {}
    for _, fields in client.xrange(HISTORY, min=f"({begin}"):
        entry = {name.decode(): value.decode() for name, value in fields.items()}
        assert entry["id"] not in entries
        entries[entry["id"]] = entry
    assert {task: entry["state"] for task, entry in entries.items() if task in metas} == {
        done: "SUCCESS",
        failed: "FAILURE",
        retried: "SUCCESS",
    }
    assert entries[failed]["error"] == "ValueError"
    assert entries[done]["name"] == "add"
    # A retry comes through the broker's queues for delays.
    assert metas[retried]["queue"] == entries[retried]["queue"] == worker.settings.queue
    assert [metas[task]["attempts"] for task in (done, failed, retried)] == [1, 1, 2]
    for task, meta in metas.items():
        times = meta["timeline"]
        assert times["published"] <= times["received"] <= times["started"] <= times["finished"]
        assert {name: repr(at) for name, at in times.items()} == {name: entries[task][name] for name in times}


# ---- chords ----


def test_f1_one_that_fails_fails_the_body_at_once(worker: WorkerProcess) -> None:
    client = worker.client
    header = [client.signature("add", args=(n, n)) for n in range(49)] + [
        client.signature("fail", args=("no luck",))
    ]
    result: Any = chord(header, client.signature("sum_up"), app=client).apply_async()
    wait_until(
        lambda: all(worker.meta(c.id)["status"] in states.READY_STATES for c in result.parent.results), DEADLINE
    )
    stored = worker.stored(result.id, 5)
    assert stored["result"]["exc_type"] == "ChordError"
    assert result.parent.results[-1].id in stored["result"]["exc_message"][0]
    assert "no luck" in stored["result"]["exc_message"][0]


def test_f2_members_killed_at_random(worker: WorkerProcess) -> None:
    size = 8
    expected = sum(range(size))
    chords = [_chord(worker, size) for _ in range(scaled(4, 200))]
    kills = len(chords) * size // 2
    for _, body in chords:
        meta = worker.ended(body, DEADLINE + kills)
        # Who happens to be in a process five times when it is killed is given up: the body says so.
        assert meta["result"] == expected or "WorkerLost" in str(meta["result"])
    began = runs(worker)
    repeated = sum(began.count(task) - 1 for task in set(began))
    assert repeated <= kills * 2  # each child has a task that runs, and at most one that it has just begun
    lost = worker.text.count("exited with 'signal 9")
    print(f"F2: {len(chords)} chords, {lost} processes killed, {repeated} repeated runs")  # noqa: T201 (what was measured)
    assert lost


@pytest.mark.parametrize("where", ["before", "after"])
def test_f3_killed_where_the_body_is_sent(worker: WorkerProcess, where: str) -> None:
    fault = worker.log.parent / where
    fault.touch()
    members, body = _chord(worker, 3, name="give_number")
    assert worker.ended(body, DEADLINE)["result"] == 3
    assert not fault.exists()
    # The queue is in order, and nothing is left in it: no other copy of the body is on its way.
    worker.ended(worker.send("add", 1, 1))
    assert runs(worker).count(body) == 1
    assert all(worker.meta(member)["status"] == "SUCCESS" for member in members)


def test_f4_redis_cuts_connections_while_parts_are_counted(
    worker: WorkerProcess, own_redis: RedisServer, tmp_path: Path
) -> None:
    stop = threading.Event()
    cuts = 0

    def cut() -> None:
        nonlocal cuts
        while not stop.wait(0.01):
            cuts += int(str(own_redis.client.client_kill_filter(_type="normal", skipme=True)))

    cutter = threading.Thread(target=cut)
    gate = tmp_path / "gate"
    held = [worker.send("hold", str(gate)) for _ in range(2)]  # so that nothing is counted before it is cut
    wait_until(lambda: all(worker.oracle.executions(task) for task in held))
    chords = [_chord(worker, 8, name="give_number") for _ in range(scaled(10, 100))]
    cutter.start()
    try:
        gate.touch()
        wait_until(lambda: all(_has_ended(own_redis, body) for _, body in chords), DEADLINE)
    finally:
        stop.set()
        cutter.join()
    print(f"F4: {len(chords)} chords, {cuts} connections cut")  # noqa: T201 (what was measured)
    assert cuts > 0
    began = runs(worker)
    for _, body in chords:
        assert worker.meta(body)["result"] == sum(range(8))
        assert began.count(body) == 1


def test_f7_a_chord_longer_than_its_results_live(
    make_worker: WorkerFactory, own_redis: RedisServer, tmp_path: Path
) -> None:
    worker = make_worker(backend=own_redis.url(), app=APP, conf={"result_expires": 1}, processes=2)
    worker.start(BACKEND_FOLDER=str(tmp_path))
    client = worker.client
    header = [client.signature("give_number", args=(1,)), client.signature("sleep", args=(2.5,))]
    result: Any = chord(header, client.signature("sum_up"), app=client).apply_async()
    stored = worker.stored(result.id)
    assert stored["result"]["exc_type"] == "ChordError"
    assert "expired" in stored["result"]["exc_message"][0]


def test_f8_a_member_that_has_expired_fails_the_body(worker: WorkerProcess) -> None:
    client = worker.client
    header = [client.signature("give_number", args=(1,)), client.signature("give_number", args=(2,), expires=-10)]
    result: Any = chord(header, client.signature("sum_up"), app=client).apply_async()
    stored = worker.stored(result.id)
    assert stored["status"] == "FAILURE"
    assert result.parent.results[1].id in stored["result"]["exc_message"][0]


# ---- chains ----


@pytest.mark.parametrize("where", ["before", "after"])
def test_f6_killed_where_the_next_step_is_sent(
    make_worker: WorkerFactory, own_redis: RedisServer, tmp_path: Path, where: str
) -> None:
    worker = make_worker(backend=own_redis.url(), app=APP, processes=2).start(BACKEND_FOLDER=str(tmp_path))
    client, steps = worker.client, 4
    chains: list[list[str]] = []
    for _ in range(scaled(2, 50)):
        first_id = uuid()
        # The result may come before the first step runs again, which sends as well: a fault is for one step only.
        fault = tmp_path / f"{where}-{first_id}"
        fault.touch()
        first, *others = (client.signature("count_up") for _ in range(steps))
        result: Any = chain(first.clone(args=(0,), task_id=first_id), *others, app=client).apply_async()
        assert worker.ended(result.id, DEADLINE)["result"] == steps
        assert not fault.exists()
        chains.append([result.id, *(parent.id for parent in _ancestors(result))])
        assert chains[-1][-1] == first_id
    # What was given back is for a moment neither in the queue nor in the worker.
    wait_until(lambda: all(runs(worker).count(ids[-1]) >= 2 for ids in chains), DEADLINE, what="each second run")
    wait_until(lambda: _is_idle(worker), DEADLINE, what="the end of all steps")
    began = runs(worker)
    for ids in chains:
        counts = {task: began.count(task) for task in ids}
        assert counts[ids[-1]] == 2, "the first step's process died"
        assert max(counts.values()) <= 2, counts
        assert all(worker.meta(task)["status"] == "SUCCESS" for task in ids)
    repeated = len(began) - steps * len(chains)
    print(f"F6: {len(chains)} chains, {len(chains)} processes killed, {repeated} repeated runs")  # noqa: T201 (what was measured)


def _ancestors(result: Any) -> Iterator[Any]:
    while (result := result.parent) is not None:
        yield result


def _is_idle(worker: WorkerProcess) -> bool:
    """Whether no task waits in the queue or in the worker, and none runs, which might send another."""
    inspect: Any = worker.client.control.inspect([worker.node], timeout=1, limit=1)
    with worker.client.connection_for_read() as connection:
        channel: Any = connection.default_channel
        if channel.queue_declare(worker.settings.queue, passive=True).message_count:
            return False
        for asked in (inspect.active, inspect.reserved):
            if any((asked() or {"nobody answered": [1]}).values()):
                return False
        return not channel.queue_declare(worker.settings.queue, passive=True).message_count


# ---- Redis ----


def test_r4_redis_killed_and_back(worker: WorkerProcess, own_redis: RedisServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    held = [worker.send("hold", str(gate)) for _ in range(2)]
    queued = [worker.send("add", n, n) for n in range(20)]
    wait_until(lambda: all(worker.oracle.executions(task) for task in held))
    own_redis.kill()
    gate.touch()
    _stay_down(scaled(1, 60))
    own_redis.start()
    back = time.monotonic()
    assert [worker.ended(task)["result"] for task in held] == ["released"] * 2
    assert [worker.ended(task)["result"] for task in queued] == [2 * n for n in range(20)]
    took = time.monotonic() - back
    print(f"R4: healed {took:.1f} s after Redis was back")  # noqa: T201 (what was measured)
    assert took < 20
    assert all(len(worker.oracle.executions(task)) == 1 for task in (*held, *queued))


def test_r5_a_full_redis_is_waited_for(worker: WorkerProcess, own_redis: RedisServer) -> None:
    own_redis.client.config_set("maxmemory", 1)
    try:
        tasks = [worker.send("add", n, n) for n in range(20)]
        wait_until(lambda: "OutOfMemoryError" in worker.text)
        assert not any(own_redis.client.exists(f"celery-task-meta-{task}") for task in tasks)
    finally:
        own_redis.client.config_set("maxmemory", 0)
    back = time.monotonic()
    assert [worker.ended(task)["result"] for task in tasks] == [2 * n for n in range(20)]
    took = time.monotonic() - back
    print(f"R5: healed {took:.1f} s after Redis had room")  # noqa: T201 (what was measured)
    assert took < 20
    assert all(len(worker.oracle.executions(task)) == 1 for task in tasks)


def _stay_down(seconds: float) -> None:
    time.sleep(seconds)  # the length of the outage: nothing is waited for


def _has_ended(server: RedisServer, task_id: str) -> bool:
    return b'"status": "SUCCESS"' in (server.client.get(f"celery-task-meta-{task_id}") or b"")
