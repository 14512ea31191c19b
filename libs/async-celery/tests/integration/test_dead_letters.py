"""Parked dead letters, read, removed and replayed by a client: with a real worker and a real reaper."""

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu.compression import compress

from async_celery import BackendError, DeadLetterNotFound, DeadLetters, PayloadError, PublishError, TransportError
from async_celery.tombstones import STOP, key_of
from async_celery.types import attempts_key
from async_celery.worker import Policy
from async_celery.worker import dead_letters as names

from .conftest import Address, Proxy
from .worker.reaper_process import ReaperProcess
from .worker.worker_process import WorkerProcess, close_app, own_vhost, wait_until


@pytest.fixture(scope="module")
def vhost() -> Iterator[str]:
    with own_vhost() as url:
        yield url


@pytest.fixture(scope="module")
def worker(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker that gives up soon, and a reaper."""
    folder = tmp_path_factory.mktemp("worker")
    options: dict[str, Any] = {"broker": vhost, "backend": backend.url(), "policy": Policy(max_attempts=2)}
    worker = WorkerProcess(folder, **options)
    reaper = ReaperProcess(folder, worker.settings)
    try:
        worker.launch()
        reaper.start()
        worker.wait_ready()
        yield worker
    finally:
        reaper.close()
        worker.close()


@pytest.fixture
def app(vhost: str, backend: Address) -> Iterator[Celery]:
    """A client's app; nothing is parked yet."""
    app = Celery(broker=vhost, backend=backend.url(), set_as_current=False)
    with app.connection_for_write() as connection:
        names.declare(connection)
        names.PARKED.bind(connection.default_channel).purge()
    yield app
    close_app(app)


@pytest.fixture
async def letters(app: Celery) -> AsyncIterator[DeadLetters]:
    letters = DeadLetters(app)
    yield letters
    await letters.aclose()


def park(app: Celery, body: bytes = b"[[1, 2], {}, {}]", *, queue: str = "work", **headers: Any) -> str:
    """Park a message, as the reaper does; return its id."""
    id_ = str(headers.get("id", uuid4()))
    told = {
        names.ID: id_,
        names.REASON: "rejected",
        names.ERROR_TYPE: "Refused",
        names.ERROR: "no",
        names.QUEUE: queue,
        names.AT: 1_800_000_000.5,
    }
    with app.connection_for_write() as connection:
        connection.Producer().publish(
            body,
            routing_key=names.PARKED.name,
            content_type="application/json",
            content_encoding="utf-8",
            headers={**headers, **told},
        )
    return id_


async def test_they_are_listed_in_their_order_and_stay(app: Celery, letters: DeadLetters) -> None:
    assert await letters.list() == []
    headers: dict[str, Any] = {"argsrepr": "(1, 2)", "kwargsrepr": "{}", names.ATTEMPTS: 5}
    first = park(app, id=str(uuid4()), task="add", **headers)
    second = park(app, b"\xff")
    for _ in range(3):
        one, other = await letters.list()
        assert [one.id, other.id] == [first, second]
    assert [letter.id for letter in await letters.list(limit=1)] == [first]
    assert one == await letters.get(first)
    assert (one.task_id, one.name, one.queue, one.reason, one.attempts) == (first, "add", "work", "rejected", 5)
    assert (one.error.type, one.error.message) == ("Refused", "no")
    assert (one.args_repr, one.kwargs_repr, one.content_type, one.size) == (
        "(1, 2)",
        "{}",
        "application/json",
        16,
    )
    assert one.died_at == datetime.fromtimestamp(1_800_000_000.5, UTC)
    assert (other.task_id, other.name, other.attempts, other.size) == (None, None, None, 1)


async def test_whatever_headers_a_message_has_it_can_be_shown(app: Celery, letters: DeadLetters) -> None:
    park(app, task="a\ud800", argsrepr=5, kwargsrepr={"a": 1})
    (letter,) = await letters.list()
    assert (letter.name, letter.args_repr, letter.kwargs_repr) == ("a?", None, None)


async def test_one_that_is_not_compressed_as_it_says_is_in_nobodys_way(app: Celery, letters: DeadLetters) -> None:
    ids = [
        park(app, b"\xff", task="add", compression="application/x-gzip"),
        park(app, compression="?"),
        park(app),
    ]
    assert [letter.id for letter in await letters.list()] == ids
    assert (await letters.get(ids[0])).size == 1
    await letters.delete(ids[0])
    assert [letter.id for letter in await letters.list()] == ids[1:]


async def test_they_are_deleted(app: Celery, letters: DeadLetters) -> None:
    kept, deleted, *_ = [park(app) for _ in range(4)]
    await letters.delete(deleted)
    for call in (letters.get, letters.delete, letters.replay):
        with pytest.raises(DeadLetterNotFound) as caught:
            await call(deleted)
        assert caught.value.id == deleted
    assert len(await letters.list()) == 3
    assert (await letters.get(kept)).id == kept
    assert await letters.delete_all() == 3
    assert await letters.list() == []


async def test_several_look_at_them_without_disturbing_each_other(app: Celery, letters: DeadLetters) -> None:
    ids = [park(app) for _ in range(20)]
    others = DeadLetters(app)
    looks = await asyncio.gather(*(which.list() for which in (letters, others) for _ in range(5)))
    assert [[letter.id for letter in look] for look in looks] == [ids] * 10
    await others.aclose()


async def test_what_dies_in_the_middle_of_a_deletion_loses_nothing(app: Celery, letters: DeadLetters) -> None:
    ids = [park(app) for _ in range(30)]
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_die_holding_all, args=(app.conf.broker_url,))
    process.start()
    await asyncio.to_thread(process.join, 20)
    assert process.exitcode == 9
    assert [letter.id for letter in await letters.list()] == ids


def _die_holding_all(broker: str) -> None:
    """Take the reader's turn and all letters, then die."""
    app = Celery(broker=broker, set_as_current=False)
    connection = app.connection_for_read()
    channel: Any = connection.default_channel
    channel.queue_declare("dead-letters.reader", exclusive=True)
    queue = names.PARKED.bind(channel)
    while queue.get() is not None:
        pass
    os._exit(9)


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
async def test_a_poison_task_is_replayed(
    worker: WorkerProcess, app: Celery, letters: DeadLetters, compression: str | None
) -> None:
    poison = worker.send("die_times", 2, compression=compression)

    def is_parked() -> bool:
        return bool(asyncio.run(_ids(app)))

    await asyncio.to_thread(wait_until, is_parked, 20, what="a dead letter")
    (letter,) = await letters.list()
    assert (letter.id, letter.name, letter.error.type) == (poison, "die_times", "WorkerLost")
    backend: Any = app.backend
    backend.client.set(key_of(poison), "revoked", ex=60)
    assert await letters.replay(poison) == poison
    assert worker.ended(poison, 15)["result"] == 3
    assert len(worker.oracle.executions(poison)) == 3
    assert await letters.list() == []


async def _ids(app: Celery) -> list[str]:
    letters = DeadLetters(app)
    try:
        return [letter.id for letter in await letters.list()]
    finally:
        await letters.aclose()


@pytest.mark.parametrize("compression", [None, "application/x-gzip"])
async def test_the_rest_of_a_chain_runs_after_a_replay(
    worker: WorkerProcess, app: Celery, letters: DeadLetters, compression: str | None
) -> None:
    backend: Any = worker.client.backend
    first, last = str(uuid4()), str(uuid4())
    rest = [worker.client.signature("echo", options={"task_id": last})]
    for task_id in (first, last):
        backend.client.set(backend.get_key_for_task(task_id), json.dumps({"status": "FAILURE"}), ex=60)
    body = json.dumps([[1, 2], {}, {"chain": rest}]).encode()
    packed = {"compression": compression} if compression else {}
    park(
        app,
        compress(body, compression)[0] if compression else body,
        id=first,
        task="add",
        expires="2020-01-01T00:00:00Z",
        retries=9,
        **packed,
    )
    await letters.replay(first)
    assert worker.ended(last, 15)["result"] == 3


async def test_what_cannot_be_replayed_stays(app: Celery, letters: DeadLetters) -> None:
    nothing = park(app, b"{")
    with pytest.raises(PayloadError):
        await letters.replay(nothing)
    backend: Any = app.backend
    lost = str(uuid4())
    park(app, id=lost, root_id=f"root of {lost}", task="add", queue="a queue that is gone")
    before = {
        backend.get_key_for_task(lost): b'{"status": "FAILURE"}',
        attempts_key(lost).encode(): b"5",
        key_of(lost).encode(): STOP.encode(),
        key_of(f"root of {lost}").encode(): STOP.encode(),
    }
    for key, value in before.items():
        backend.client.set(key, value, ex=60)
    with pytest.raises(PublishError, match="a queue that is gone"):
        await letters.replay(lost)
    assert backend.client.mget(before) == list(before.values())
    assert [letter.id for letter in await letters.list()] == [nothing, lost]


async def test_a_broker_that_is_away_or_hangs_is_reported(
    vhost: str, backend: Address, broker: Address, broker_proxy: Proxy
) -> None:
    url = vhost.replace(f":{broker.port}/", f":{broker_proxy.port}/")
    app = Celery(broker=url, backend=backend.url(), set_as_current=False)
    letters = DeadLetters(app, timeout=1)
    await letters.list()
    broker_proxy.swallow()
    began = time.monotonic()
    with pytest.raises(TransportError):
        await letters.list()
    assert time.monotonic() - began < 5
    broker_proxy.open_again()
    await broker_proxy.refuse()
    with pytest.raises(TransportError):
        await letters.list()
    await letters.aclose()
    with pytest.raises(TransportError, match="closed"):
        await letters.list()


async def test_a_redis_that_is_away_keeps_the_letter(vhost: str, app: Celery) -> None:
    id_ = park(app, id=str(uuid4()), task="add")
    other = Celery(broker=vhost, backend="redis://127.0.0.1:9", set_as_current=False)
    letters = DeadLetters(other)
    with pytest.raises(BackendError):
        await letters.replay(id_)
    assert [letter.id for letter in await letters.list()] == [id_]
    await letters.aclose()
