"""Results in a real Redis: read, pushed, marked, forgotten, over every way to reach it."""

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.result import GroupResult

from async_celery import BackendError, TransportError, tombstones
from async_celery.heard import Heard
from async_celery.results import RedisBackend
from async_celery.task_ids import TaskIds
from async_celery.types import DEADLINES, BackendCall, Meta, NodeKind, TaskNode, TaskRecord

from .conftest import KEY, CeleryFactory, Eventually, ResultsFactory
from .redis_server import PASSWORD, RedisServer

Batches = AsyncGenerator[list[tuple[str, Meta]]]


@pytest.fixture(autouse=True)
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests see was pushed, or read when it had to be: the poll would hide that it was not."""
    monkeypatch.setattr("async_celery.push._POLL_INTERVAL", 3600)


@pytest.fixture
def ids() -> TaskIds:
    return TaskIds(KEY)


@pytest.fixture
async def results(make_results: ResultsFactory, ids: TaskIds) -> RedisBackend:
    return make_results(ids=ids)


async def subscribed(results: RedisBackend, redis_server: RedisServer, eventually: Eventually) -> None:
    """Wait until there is a subscription that stands."""

    async def expects() -> bool:
        return results.expect() is not None

    await eventually(expects)
    assert redis_server.patterns() == 1


async def following(batches: Batches) -> "asyncio.Task[list[tuple[str, Meta]]]":
    """Ask for the next batch; return when the asking has begun."""
    task = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    return task


async def soon(awaitable: "asyncio.Future[Any]") -> Any:
    async with asyncio.timeout(5):
        return await awaitable


def values(batch: list[tuple[str, Meta]]) -> list[tuple[str, Any]]:
    return [(task_id, meta["result"]) for task_id, meta in batch]


# --- pushed


async def test_what_is_pushed_before_anybody_waits_takes_no_command(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds, eventually: Eventually
) -> None:
    await subscribed(results, redis_server, eventually)
    expected = {task_id: results.expect() for task_id in (ids.new(), ids.child())}
    for task_id in expected:
        redis_server.store(task_id, "early")
    # Nothing is left to be read.
    redis_server.client.flushall()
    reads, subscriptions = redis_server.calls_of("mget"), redis_server.calls_of("subscribe")
    for task_id, expectation in expected.items():
        async with aclosing(results.follow([task_id], expectation)) as batches:
            assert values(await soon(await following(batches))) == [(task_id, "early")]
            waiting = await following(batches)
            redis_server.store(task_id, "late")
            assert values(await soon(waiting)) == [(task_id, "late")]
    assert redis_server.calls_of("mget") == reads
    assert redis_server.calls_of("subscribe") == subscriptions


async def test_every_change_comes_in_its_order(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds
) -> None:
    task_id = ids.new()
    seen = []
    async with aclosing(results.follow([task_id], results.expect())) as batches:
        for status in ("STARTED", "PROGRESS", "RETRY", "STARTED", "SUCCESS"):
            waiting = await following(batches)
            redis_server.store(task_id, status=status)
            ((_, meta),) = await soon(waiting)
            seen.append(meta["status"])
    assert seen == ["STARTED", "PROGRESS", "RETRY", "STARTED", "SUCCESS"]


async def test_a_slow_taker_gets_the_latest_of_each(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds, eventually: Eventually
) -> None:
    await subscribed(results, redis_server, eventually)
    first, second = ids.new(), ids.new()
    async with aclosing(results.follow([first, second])) as batches:
        waiting = await following(batches)
        redis_server.store(first, 0)
        await soon(waiting)
        for number in range(1, 101):
            redis_server.store(first, number)
            redis_server.store(second, number)
        # Messages come in order: what was published before this one is there.
        last = ids.new()
        async with aclosing(results.follow([last], results.expect())) as others:
            heard = await following(others)
            redis_server.store(last)
            await soon(heard)
        assert values(await soon(await following(batches))) == [(first, 100), (second, 100)]


async def test_a_large_result_is_not_kept_but_read_when_it_is_wanted(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds, eventually: Eventually
) -> None:
    await subscribed(results, redis_server, eventually)
    task_id = ids.new()
    expectation = results.expect()
    redis_server.store(task_id, "x" * (1 << 20))

    async def has_come() -> bool:
        return results.expect() != expectation

    await eventually(has_come)
    assert results._push._heard.latest(task_id) == b""
    async with aclosing(results.follow([task_id], expectation)) as batches:
        assert values(await soon(await following(batches))) == [(task_id, "x" * (1 << 20))]


@pytest.mark.parametrize("pushed", [True, False], ids=["pushed", "read"])
async def test_a_result_over_the_cap_is_a_failure_and_hurts_nobody_else(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds, pushed: bool
) -> None:
    """R8: Redis itself would not push 40 MB to anybody."""
    huge, small = ids.new(), ids.new()
    async with aclosing(results.follow([huge, small])) as batches:
        if pushed:
            waiting = await following(batches)
            redis_server.store(huge, "x" * (3 << 20))
        else:
            redis_server.store(huge, "x" * (40 << 20))
            waiting = await following(batches)
        ((task_id, meta),) = await soon(waiting)
        assert (task_id, meta["status"]) == (huge, "FAILURE")
        assert meta["result"]["exc_type"] == "ResultTooLarge"
        waiting = await following(batches)
        redis_server.store(small, 1)
        assert values(await soon(waiting)) == [(small, 1)]
    assert (await results.read(huge))[0] == meta


@pytest.mark.parametrize("payload", [b"\x80\x04N.", b"{", b"[" * 100_000])
async def test_what_is_no_json_is_a_failure(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds, payload: bytes
) -> None:
    task_id = ids.new()
    async with aclosing(results.follow([task_id], results.expect())) as batches:
        waiting = await following(batches)
        redis_server.store_raw(task_id, payload)
        ((_, meta),) = await soon(waiting)
    assert meta["result"]["exc_type"] == "UnreadableResult"
    assert await results.read_many([task_id]) == [meta]


async def test_not_a_number_is_pythons_and_celerys_json(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds
) -> None:
    task_id = ids.new()
    redis_server.store(task_id, math.nan)
    async with aclosing(results.follow([task_id])) as batches:
        ((_, value),) = values(await soon(await following(batches)))
    assert math.isnan(value)


# --- ids of others


async def test_another_processs_tasks_are_subscribed_to_while_they_are_followed(
    results: RedisBackend, redis_server: RedisServer, eventually: Eventually
) -> None:
    before, after = "of somebody else", "and another"
    redis_server.store(before, 1)
    async with aclosing(results.follow([before, after])) as first:
        assert values(await soon(await following(first))) == [(before, 1)]
        assert set(redis_server.channels()) == {b"celery-task-meta-" + id_.encode() for id_ in (before, after)}
        async with aclosing(results.follow([after])) as second:
            waiting = [await following(first), await following(second)]
            redis_server.store(after, 2)
            for task in waiting:
                assert values(await soon(task)) == [(after, 2)]
        # One of the two has gone: the other one still hears.
        waiting = [await following(first)]
        redis_server.store(after, 3)
        assert values(await soon(waiting[0])) == [(after, 3)]

    async def unsubscribed() -> bool:
        return redis_server.channels() == []

    await eventually(unsubscribed)
    assert redis_server.patterns() == 1


async def test_who_joins_later_gets_what_is_stored(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds
) -> None:
    for task_id in (ids.new(), "of somebody else"):
        redis_server.store(task_id, 1)
        async with aclosing(results.follow([task_id])) as first:
            assert values(await soon(await following(first))) == [(task_id, 1)]
            async with aclosing(results.follow([task_id])) as second:
                assert values(await soon(await following(second))) == [(task_id, 1)]


async def test_what_came_too_long_ago_is_read(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds, eventually: Eventually
) -> None:
    results._push._heard = Heard(room=1000)
    await subscribed(results, redis_server, eventually)
    early, late = ids.new(), ids.new()
    expectation = results.expect()
    assert expectation is not None
    redis_server.store(early, 1)
    for number in range(3):
        redis_server.store(late, "x" * 200 + str(number))
        redis_server.store(ids.new(), "x" * 200)

    async def all_have_come() -> bool:
        return results.expect() == expectation + 7

    await eventually(all_have_come)
    reads = redis_server.calls_of("mget")
    async with aclosing(results.follow([early, late], expectation)) as batches:
        assert values(await soon(await following(batches))) == [(early, 1), (late, "x" * 200 + "2")]
    assert redis_server.calls_of("mget") == reads + 1


async def test_one_expectation_holds_for_many_tasks(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds, eventually: Eventually
) -> None:
    await subscribed(results, redis_server, eventually)
    expectation = results.expect()
    mine, foreign = [ids.child() for _ in range(3)], "of somebody else"
    redis_server.store(mine[0], 0)
    redis_server.store(foreign, 1)
    reads = redis_server.calls_of("mget")

    async def has_come() -> bool:
        return results.expect() != expectation

    await eventually(has_come)
    async with aclosing(results.follow(mine, expectation)) as batches:
        assert values(await soon(await following(batches))) == [(mine[0], 0)]
        assert redis_server.calls_of("mget") == reads
    # What nobody listened for is read whatever the expectation.
    async with aclosing(results.follow([foreign], expectation)) as batches:
        assert values(await soon(await following(batches))) == [(foreign, 1)]


async def test_a_pattern_in_a_prefix_is_taken_literally(
    make_results: ResultsFactory, redis_server: RedisServer, ids: TaskIds, eventually: Eventually
) -> None:
    options = {"global_keyprefix": "a[b]*?\\:"}
    results = make_results(ids=ids, result_backend_transport_options=options)
    await subscribed(results, redis_server, eventually)
    task_id = ids.new()
    expectation = results.expect()
    key, payload = f"a[b]*?\\:celery-task-meta-{task_id}", json.dumps({"status": "SUCCESS", "result": 1})
    async with aclosing(results.follow([task_id], expectation)) as batches:
        waiting = await following(batches)
        redis_server.client.publish(key, payload)
        assert values(await soon(waiting)) == [(task_id, 1)]
    redis_server.client.set(key, payload)
    ((meta,), (other,)) = await results.read_many([task_id]), await results.read_many(["another"])
    assert meta is not None
    assert other is None


# --- commands


def record(kind: NodeKind = NodeKind.CHORD) -> TaskRecord:
    members = tuple(TaskNode(kind=NodeKind.TASK, id=f"member {n}", name="t") for n in range(3))
    return TaskRecord(
        accepted_at=datetime(2025, 1, 1, tzinfo=UTC),
        deadline=datetime(2025, 1, 1, 1, tzinfo=UTC),
        tree=TaskNode(kind=kind, id="whole", name=kind, children=members),
    )


async def test_read_tells_results_and_records(results: RedisBackend, redis_server: RedisServer) -> None:
    assert await results.read("whole") == (None, None)
    await results.save("whole", record(), ())
    assert await results.read("whole") == (None, record())
    redis_server.store("whole", 7)
    meta, saved = await results.read("whole")
    assert meta == {"status": "SUCCESS", "result": 7, "task_id": "whole"}
    assert saved == record()
    assert await results.read_many(["missing", "whole", "missing"]) == [None, meta, None]
    await results.forget(["whole", "missing"], record_of="whole")
    assert await results.read("whole") == (None, None)


async def test_what_is_saved_expires_with_the_results(
    make_results: ResultsFactory, redis_server: RedisServer
) -> None:
    calls = [
        BackendCall(method="set_chord_size", args=("whole", 3)),
        BackendCall(method="_set_chord_key", args=(b"a key", b"a value")),
    ]
    redis_server.client.set("celery-taskset-meta-whole.c", "of an earlier run")
    await make_results(result_expires=100, result_chord_expires=50).save("whole", record(), calls)
    client = redis_server.client
    ttl = {key: client.ttl(key) for key in ("task-record:whole", "celery-taskset-meta-whole.s", "a key")}
    assert {name: round(int(str(left)), -1) for name, left in ttl.items()} == {
        "task-record:whole": 100,
        "celery-taskset-meta-whole.s": 50,
        "a key": 50,
    }
    assert client.get("celery-taskset-meta-whole.s") == b"3"
    assert client.get("a key") == b"a value"
    assert not client.exists("celery-taskset-meta-whole.c")


async def test_a_workflow_is_noted_with_its_deadline_for_the_sweeper(
    make_results: ResultsFactory, redis_server: RedisServer
) -> None:
    client, now = redis_server.client, datetime.now(UTC)
    client.zadd(DEADLINES, {"forgotten": now.timestamp() - 101, "late": now.timestamp() - 99})
    lasting = replace(record(), deadline=now + timedelta(seconds=1000))
    await make_results(result_expires=100).save("whole", lasting, ())
    assert client.zrange(DEADLINES, 0, -1) == [b"late", b"whole"]
    assert client.zscore(DEADLINES, "whole") == pytest.approx(lasting.deadline.timestamp())
    # As long as the result of a task that starts at the last moment.
    assert 1095 < int(str(client.ttl("task-record:whole"))) <= 1100


async def test_tombstones_say_whether_what_runs_is_stopped(
    make_results: ResultsFactory, redis_server: RedisServer
) -> None:
    results = make_results(result_expires=100)
    assert await results.bury(["a", "b"], terminate=True)
    assert await results.bury(["c"], terminate=False)
    assert redis_server.client.mget(map(tombstones.key_of, "abc")) == [
        b"revoked",
        b"revoked",
        b"revoked-if-queued",
    ]
    assert 90 < int(str(redis_server.client.ttl("task-revoked:c"))) <= 100


async def test_results_that_never_expire_keep_their_record(
    make_results: ResultsFactory, redis_server: RedisServer
) -> None:
    await make_results(result_expires=0).save("whole", record(), ())
    assert redis_server.client.ttl("task-record:whole") == -1


async def test_celerys_own_clients_find_a_group(results: RedisBackend, redis_server: RedisServer) -> None:
    await results.save("whole", record(NodeKind.GROUP), ())
    saved = GroupResult("saved", [], app=Celery(backend="cache+memory://", set_as_current=False))
    await results.save("x", record(), [BackendCall(method="save_group", args=("saved", saved))])

    # In another process: Celery's results go on talking to Redis when they are deleted.
    program = "import celery, sys; app = celery.Celery(backend=sys.argv[1])\n"
    program += "for name in sys.argv[2:]: print(repr(app.GroupResult.restore(name, app=app)))"
    command = [sys.executable, "-c", program, redis_server.url(), "whole", "saved", "missing"]
    ended = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)
    assert ended.stdout.splitlines() == [
        "<GroupResult: whole [member 0, member 1, member 2]>",
        "<GroupResult: saved []>",
        "None",
    ]


async def test_a_call_that_nobody_knows_is_refused_before_anything_is_stored(
    results: RedisBackend, redis_server: RedisServer
) -> None:
    with pytest.raises(NotImplementedError, match="add_to_chord"):
        await results.save("whole", record(), [BackendCall(method="add_to_chord", args=("a", "b"))])
    assert redis_server.client.dbsize() == 0


async def test_a_record_that_is_none_of_ours_is_an_error(
    results: RedisBackend, redis_server: RedisServer
) -> None:
    redis_server.client.set("task-record:whole", "[]")
    with pytest.raises(BackendError, match="task-record:whole"):
        await results.read("whole")


async def test_only_what_has_no_state_is_marked_revoked_and_its_waiters_hear_of_it(
    results: RedisBackend, redis_server: RedisServer, ids: TaskIds, eventually: Eventually
) -> None:
    await subscribed(results, redis_server, eventually)
    queued, ended = ids.new(), ids.new()
    redis_server.store(ended, 1)
    async with aclosing(results.follow([queued], results.expect())) as batches:
        waiting = await following(batches)
        await results.mark_revoked([queued, ended])
        ((task_id, meta),) = await soon(waiting)
    assert (task_id, meta["status"]) == (queued, "REVOKED")
    assert [meta and meta["status"] for meta in await results.read_many([queued, ended])] == [
        "REVOKED",
        "SUCCESS",
    ]
    assert 0 < int(str(redis_server.client.ttl(f"celery-task-meta-{queued}"))) <= 86400
    client: Any = redis_server.client
    ((_, entry),) = client.xrange("task-history")
    assert (entry[b"id"], entry[b"state"]) == (queued.encode(), b"REVOKED")
    await results.mark_revoked([])


# --- ways to get there


async def works(results: RedisBackend, redis_server: RedisServer) -> None:
    task_id = str(uuid4())
    await results.ping()
    async with aclosing(results.follow([task_id])) as batches:
        waiting = await following(batches)
        await results.mark_revoked([task_id])
        ((_, meta),) = await soon(waiting)
        assert meta["status"] == "REVOKED"


async def test_by_unix_socket(make_results: ResultsFactory, redis_server: RedisServer) -> None:
    password = PASSWORD.replace(" ", "%20")
    await works(make_results(f"redis+socket://:{password}@{redis_server.socket}"), redis_server)


async def test_by_tls(make_results: ResultsFactory, redis_server: RedisServer) -> None:
    url = redis_server.url(redis_server.tls_port)
    secure = url.replace("redis://", "rediss://")
    query = f"?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={redis_server.certificate}"
    await works(make_results(secure + query), redis_server)
    settings = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(redis_server.certificate)}
    await works(make_results(url, redis_backend_use_ssl=settings), redis_server)
    # A certificate that nobody vouches for.
    with pytest.raises(BackendError, match="certificate verify failed"):
        await make_results(secure + "?ssl_cert_reqs=CERT_REQUIRED").ping()
    # TLS where none is spoken, and none where it is.
    with pytest.raises(BackendError):
        await make_results(redis_server.url().replace("redis://", "rediss://") + query, timeout=0.3).ping()
    with pytest.raises(BackendError):
        await make_results(url, timeout=0.3).ping()


async def test_by_name_and_password_into_another_database(
    make_results: ResultsFactory, redis_server: RedisServer
) -> None:
    redis_server.client.acl_setuser(
        "me", enabled=True, passwords=["+s@cret"], keys=["*"], channels=["*"], commands=["+@all"]
    )
    url = f"redis://me:s%40cret@127.0.0.1:{redis_server.port}/3"
    results = make_results(url, redis_client_name="by-name")
    await works(results, redis_server)
    await results.save("whole", record(), ())
    keyspace: Any = redis_server.client.info("keyspace")
    assert set(keyspace) == {"db3"}
    clients: Any = redis_server.client.client_list()
    mine = [client for client in clients if client["name"] == "by-name"]
    assert {client["user"] for client in mine} == {"me"}
    assert {client["db"] for client in mine} == {"3"}


# --- the end


async def test_closing_ends_what_is_followed_and_leaves_nothing(
    make_results: ResultsFactory, redis_server: RedisServer, ids: TaskIds, eventually: Eventually
) -> None:
    before = asyncio.all_tasks()
    results = make_results(ids=ids)
    follows = [results.follow(["of somebody else"]), results.follow([ids.new()])]
    expectation = results.expect()
    waiting = [await following(batches) for batches in follows]
    await subscribed(results, redis_server, eventually)
    under_way = asyncio.create_task(results.ping())
    await asyncio.sleep(0)
    await results.aclose()
    await under_way
    for task in waiting:
        with pytest.raises(TransportError, match="closed"):
            await soon(task)
    await results.aclose()
    for call in (
        results.ping(),
        results.read("x"),
        results.read_many(["x"]),
        results.save("x", record(), ()),
        results.mark_revoked(["x"]),
        results.forget(["x"], record_of="x"),
        anext(results.follow(["x"], expectation)),
    ):
        with pytest.raises(TransportError, match="closed"):
            await call
    results.expect()
    assert asyncio.all_tasks() == before

    async def gone() -> bool:
        return redis_server.connections() == 0

    await eventually(gone)


async def test_closing_what_was_never_used(make_results: ResultsFactory, redis_server: RedisServer) -> None:
    await make_results().aclose()
    assert redis_server.connections() == 0


# --- a real worker


@pytest.mark.usefixtures("worker")
async def test_a_workers_results_are_pushed(make_celery: CeleryFactory, queue: str, ids: TaskIds) -> None:
    app = make_celery()
    results = RedisBackend(app, ids=ids, backend_timeout=2)
    try:
        sent = {ids.new(): n for n in range(20)}
        expected = {task_id: results.expect() for task_id in sent}

        def send() -> None:
            with app.producer_pool.acquire(block=True) as producer:
                for task_id, n in sent.items():
                    app.amqp.send_task_message(
                        producer, "add", app.amqp.create_task_message(task_id, "add", (n, 1), {}), queue=queue
                    )

        await asyncio.to_thread(send)

        async def result(task_id: str) -> Any:
            async with aclosing(results.follow([task_id], expected[task_id])) as batches:
                async for ((_, meta),) in batches:
                    if meta["status"] == "SUCCESS":
                        return meta["result"]
            return None

        async with asyncio.timeout(15):
            assert await asyncio.gather(*map(result, sent)) == [n + 1 for n in sent.values()]
    finally:
        await results.aclose()
        app.close()
