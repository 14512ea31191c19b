"""The other brokers and backends of `threads.py`, in every pair with a real worker, and what breaks them.

How it works: one worker per pair, one pair after the other: Redis as the broker beside Redis results; then with
SQLite, through SQLAlchemy, as the result backend; then RabbitMQ with SQLite. That each half works in both of its
pairs is what shows that `types.Broker` and `types.Backend` are the only seam.

What belongs here: what the native pair's own tests show, once, for the others.
"""

import asyncio
import contextlib
import datetime
import os
import pickle
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery, chain, chord, group
from celery.result import GroupResult
from sqlalchemy import create_engine, text

from async_celery import (
    AsyncCelery,
    BackendError,
    OnTimeout,
    PayloadError,
    PublishError,
    ResultTimeout,
    TaskFailed,
    TaskHandle,
    TaskNotFound,
    TaskRevoked,
    TaskState,
    TransportError,
)
from async_celery.publisher import AmqpBroker
from async_celery.results import RedisBackend
from async_celery.threads import ThreadsBackend, ThreadsBroker

from .conftest import KEY, Address, Eventually, Gate, Notes, Proxy, running_worker


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A broker and a result backend, by their URLs, and the queue that a worker serves there."""

    broker_url: str
    backend_url: str
    queue: str

    def app(self, **changes: Any) -> Celery:
        app = Celery(broker=self.broker_url, backend=self.backend_url, set_as_current=False)
        app.conf.update({"task_default_queue": self.queue} | changes)
        return app


@pytest.fixture(scope="module", params=["redis and redis", "redis and database", "amqp and database"])
def pair(
    request: pytest.FixtureRequest,
    broker: Address,
    backend: Address,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    """The pair, with its worker."""
    out, _, back = request.param.partition(" and ")
    folder = tmp_path_factory.mktemp("pair")
    pair = Pair(
        broker_url=backend.url() if out == "redis" else broker.url(),
        backend_url=backend.url() if back == "redis" else f"db+sqlite:///{folder / 'results.sqlite'}",
        queue=f"async-celery-test-{uuid4()}",
    )
    urls = {"broker_url": pair.broker_url, "backend_url": pair.backend_url}
    with running_worker(folder, **urls, queue=pair.queue, processes=1):
        yield pair
    with pair.app().connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.queue_delete(pair.queue)


@pytest.fixture
async def client(pair: Pair) -> AsyncIterator[AsyncCelery]:
    async with AsyncCelery(pair.app(), task_id_key=KEY) as client:
        yield client


async def test_a_pair_is_chosen_by_its_urls(client: AsyncCelery, pair: Pair) -> None:
    link = client._link
    assert type(link.broker) is (AmqpBroker if pair.broker_url.startswith("amqp") else ThreadsBroker)
    assert type(link.backend) is (RedisBackend if pair.backend_url.startswith("redis") else ThreadsBackend)
    await asyncio.gather(client.ping_broker(), client.ping_backend())


async def test_result_and_status(client: AsyncCelery, pair: Pair) -> None:
    handle = await client.send_task("echo", ({"a": [1, None, "ü"]},), queue=pair.queue)
    assert await handle.result(timeout=10) == {"a": [1, None, "ü"]}
    # What another process sees, by the id alone.
    status = await client.handle(handle.id).status()
    assert (status.id, status.name, status.state) == (handle.id, "echo", TaskState.SUCCESS)
    assert status.attempts == 1
    assert status.finished_at is not None
    assert abs(status.finished_at - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)
    assert await handle.cancel() is False
    await handle.forget()
    assert (await client.handle(handle.id).status()).state is TaskState.QUEUED  # nothing of it is left
    with pytest.raises(TaskNotFound):
        await client.handle(str(uuid4())).status()


async def test_a_failure_keeps_its_type_and_message(client: AsyncCelery, pair: Pair) -> None:
    handle = await client.send_task("fail", kwargs={"message": "no luck"}, queue=pair.queue)
    with pytest.raises(TaskFailed) as caught:
        await handle.result(timeout=10)
    assert (caught.value.type, caught.value.message) == ("ValueError", "no luck")
    status = await handle.status()
    assert status.state is TaskState.FAILURE
    assert status.error is not None
    assert (status.error.type, status.error.message) == ("ValueError", "no luck")


async def test_workflows(client: AsyncCelery, pair: Pair) -> None:
    app = pair.app()
    total = app.signature("total")

    def add(*args: Any) -> Any:
        return app.signature("add", args=args)

    shapes: list[tuple[Any, Any]] = [
        (chain(add(1, 1), add(2), add(3)), 7),
        (group(add(1, 1), add(2, 2)), [2, 4]),
        (chord([add(1, 1), add(2, 2)], total), 6),
        (chain(add(1, 1), group(add(1), add(2)), total), 7),
    ]
    handles: list[TaskHandle[Any]] = [await client.submit(canvas) for canvas, _ in shapes]
    assert [await handle.result(timeout=20) for handle in handles] == [expected for _, expected in shapes]
    seen = [await client.handle(handle.id).status() for handle in handles]
    assert [(status.name, status.state) for status in seen] == [
        ("chain", TaskState.SUCCESS),
        ("group", TaskState.SUCCESS),
        ("chord", TaskState.SUCCESS),
        ("chain", TaskState.SUCCESS),
    ]

    def saved() -> list[str]:
        # Celery's own clients find the group.
        restored: Any = GroupResult.restore(handles[1].id, app=app)
        ids = [member.id for member in restored]
        backend: Any = app.backend
        # Results that are collected unsubscribe from Redis, on a connection that they open for that.
        backend.remove_pending_result = lambda result: result
        if pool := getattr(getattr(backend, "client", None), "connection_pool", None):
            pool.disconnect()
        return ids

    assert await asyncio.to_thread(saved) == [child.id for child in seen[1].children]
    with pytest.raises(PayloadError):
        await client.submit(group(add(object(), 1), add(1, 1)))


async def test_a_failing_header_fails_the_chord(client: AsyncCelery, pair: Pair) -> None:
    app = pair.app()
    header = [app.signature("add", args=(1, 1)), app.signature("fail")]
    handle = await client.submit(chord(header, app.signature("total")))
    with pytest.raises(TaskFailed) as caught:
        await handle.result(timeout=10)
    assert (caught.value.name, caught.value.message) == ("fail", "boom")


async def test_cancel_stops_what_runs_and_what_waits(
    client: AsyncCelery, pair: Pair, gate: Gate, notes: Notes, eventually: Eventually
) -> None:
    runs = await client.send_task("hold", (gate.path,), queue=pair.queue)
    waits = await client.send_task("note", (notes.path, "waits"), queue=pair.queue)

    async def started() -> bool:
        return (await runs.status()).state is TaskState.STARTED

    await eventually(started)
    assert await waits.cancel() is True
    assert await runs.cancel() is True
    for handle in (runs, waits):
        with pytest.raises(TaskRevoked):
            await handle.result(timeout=10)
    gate.open()
    last = await client.send_task("note", (notes.path, "last"), queue=pair.queue)
    await last.result(timeout=10)
    assert notes.read() == ["last"]
    assert gate.log() == ["started"]


async def test_a_timeout_revokes(
    client: AsyncCelery, pair: Pair, gate: Gate, notes: Notes, eventually: Eventually
) -> None:
    holds = await client.send_task("hold", (gate.path,), queue=pair.queue)
    waits = await client.send_task("note", (notes.path, "waits"), queue=pair.queue)
    began = time.monotonic()
    with pytest.raises(ResultTimeout) as caught:
        await waits.result(timeout=0.5)
    assert time.monotonic() - began < 2
    assert caught.value.revoked
    with pytest.raises(ResultTimeout) as kept:
        await holds.result(timeout=0.1, on_timeout=OnTimeout.KEEP)
    assert not kept.value.revoked
    gate.open()
    assert await holds.result(timeout=10) == "released"
    last = await client.send_task("note", (notes.path, "last"), queue=pair.queue)
    await last.result(timeout=10)
    assert notes.read() == ["last"]


async def test_progress_can_be_watched(client: AsyncCelery, pair: Pair, gate: Gate) -> None:
    handle = await client.send_task("progress", (gate.path,), queue=pair.queue)
    seen: list[tuple[TaskState, Any]] = []
    async with contextlib.aclosing(handle.watch()) as updates, asyncio.timeout(20):
        async for status in updates:
            seen.append((status.state, status.progress))
            if status.state is TaskState.PROGRESS:
                gate.open()
    assert seen[-2:] == [(TaskState.PROGRESS, {"done": 1, "total": 2}), (TaskState.SUCCESS, None)]


async def test_what_cannot_be_sent_is_said_at_once(client: AsyncCelery, pair: Pair) -> None:
    with pytest.raises(PayloadError):
        await client.send_task("echo", (object(),), queue=pair.queue)
    with pytest.raises(PayloadError):
        await client.send_task("echo", (1,), queue=pair.queue, headers={"odd": object()})
    fine = await client.send_task("echo", (1,), queue=pair.queue)
    assert await fine.result(timeout=10) == 1


async def test_closing_lets_sends_end_and_begins_nothing_more(pair: Pair) -> None:
    client = AsyncCelery(pair.app(), task_id_key=KEY)
    sending = [asyncio.create_task(client.send_task("echo", (n,), queue=pair.queue)) for n in range(20)]
    await asyncio.sleep(0)  # each has begun
    await client.aclose()
    handles = await asyncio.gather(*sending)
    await client.aclose()
    with pytest.raises(TransportError):
        await client.send_task("echo", (1,), queue=pair.queue)
    with pytest.raises(TransportError):
        await handles[0].status()
    async with AsyncCelery(pair.app(), task_id_key=KEY) as other:
        results = [await other.handle(handle.id).result(timeout=10) for handle in handles]
    assert results == list(range(20))


# --- What breaks them -------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(backend_proxy: Proxy, backend: Address, tmp_path: Path) -> Pair:
    """A Redis broker behind a proxy, with a database; no worker."""
    url = backend.url(backend_proxy.port)
    return Pair(broker_url=url, backend_url=f"db+sqlite:///{tmp_path / 'db'}", queue=f"nobody-{uuid4()}")


@pytest.fixture
def queued(redis_client: redis.Redis, proxied: Pair) -> Iterator[Callable[[], Any]]:
    """Return a function that counts the messages in the queue, behind the client's back."""
    yield lambda: redis_client.llen(proxied.queue)
    redis_client.delete(proxied.queue, f"_kombu.binding.{proxied.queue}")


async def test_an_outage_of_the_redis_broker_is_told_in_time_and_heals(
    proxied: Pair, backend_proxy: Proxy, queued: Callable[[], Any]
) -> None:
    async with AsyncCelery(proxied.app(), task_id_key=KEY, publish_timeout=1) as client:
        await client.send_task("add", (1, 1), queue=proxied.queue)
        for fault in (backend_proxy.refuse, backend_proxy.swallow):
            if asyncio.iscoroutine(going := fault()):
                await going
            began = time.monotonic()
            many = (client.send_task("add", (n, n), queue=proxied.queue) for n in range(30))
            errors = await asyncio.gather(*many, client.ping_broker(), return_exceptions=True)
            assert time.monotonic() - began < 2
            assert {issubclass(type(error), PublishError) for error in errors} == {True}
            await backend_proxy.open()
        before = queued()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(PublishError):
                    await client.send_task("add", (1, 1), queue=proxied.queue)
                    break
        assert queued() > before


async def test_a_connection_that_died_unnoticed_costs_nothing(
    proxied: Pair, backend_proxy: Proxy, queued: Callable[[], Any]
) -> None:
    async with AsyncCelery(proxied.app(), task_id_key=KEY, max_threads=1) as client:
        await client.send_task("add", (1, 1), queue=proxied.queue)
        backend_proxy.reset()
        await client.send_task("add", (1, 1), queue=proxied.queue)
        assert queued() == 2


async def test_a_database_that_is_down_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What Celery does in its thread beyond the timeout would only hold up the end of this test.
    monkeypatch.setattr("celery.backends.database.session.PREPARE_MODELS_MAX_RETRIES", 1)
    pair = Pair(broker_url="memory://", backend_url=f"db+sqlite:///{tmp_path / 'not' / 'there'}", queue="q")
    async with AsyncCelery(pair.app(), task_id_key=KEY, backend_timeout=0.2) as client:
        handle = await client.send_task("add", (1, 1), queue="q")
        with pytest.raises(BackendError):
            await client.ping_backend()
        with pytest.raises(BackendError):
            await handle.status()
        with pytest.raises(ResultTimeout):
            await handle.result(timeout=0.3)


class Bomb:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


async def test_pickles_of_older_workers_are_read_and_never_run(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'db'}"
    async with AsyncCelery(
        Pair(broker_url="memory://", backend_url=f"db+{url}", queue="q").app(), task_id_key=KEY
    ) as client:
        await client.ping_backend()  # makes the tables
        error = {"exc_type": "ValueError", "exc_message": ("boom", 1), "exc_module": "builtins"}
        rows = {
            "plain": ("SUCCESS", {"a": [1, (2, None)], "b": b"bytes"}),
            "failed": ("FAILURE", error),
            "bomb": ("SUCCESS", Bomb(tmp_path / "made")),
            "raised": ("FAILURE", ValueError("boom")),
        }
        engine = create_engine(url)
        with engine.begin() as connection:
            for id_, (status, value) in rows.items():
                connection.execute(
                    text("INSERT INTO celery_taskmeta (task_id, status, result) VALUES (:id, :status, :value)"),
                    {"id": id_, "status": status, "value": pickle.dumps(value)},
                )
        engine.dispose()
        assert await client.handle("plain").result(timeout=1) == {"a": [1, (2, None)], "b": b"bytes"}
        with pytest.raises(TaskFailed, match="ValueError: boom, 1"):
            await client.handle("failed").result(timeout=1)
        for id_ in ("bomb", "raised"):
            with pytest.raises(TaskFailed, match="UnreadableResult: a pickle of more than plain data"):
                await client.handle(id_).result(timeout=1)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("url", ["rpc://", "rpc"])
async def test_a_backend_that_can_be_read_only_once_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="result_backend"):
        AsyncCelery(Pair(broker_url="memory://", backend_url=url, queue="q").app(), task_id_key=KEY)
