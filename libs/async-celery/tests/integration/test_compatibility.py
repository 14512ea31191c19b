"""Workers of older Celery versions, each with the kombu of its time, run what this library sends.

How it works: each version from PyPI in an environment of its own runs the sample tasks; the client and its Celery
are ours. The oldest supported version stands for all in the short form.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import Signature

from async_celery import AsyncCelery, TaskFailed, TaskRevoked, TaskState

from .conftest import Address, Eventually, Gate, Notes, running_worker, temporary_queue
from .environments import Environments
from .faults import scaled

VERSIONS = ["5.3", "5.4", "5.5", "5.6"]


@pytest.fixture(scope="module", params=VERSIONS[: scaled(1, len(VERSIONS))])
def old_queue(
    request: pytest.FixtureRequest,
    broker: Address,
    backend: Address,
    environments: Environments,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The queue of a worker of an older version, with one process."""
    name = f"celery-{request.param}"
    folder, python = tmp_path_factory.mktemp(name), environments.python(name)
    urls = {"broker_url": broker.url(), "backend_url": backend.url()}
    with (
        temporary_queue(broker, name) as queue,
        running_worker(folder, **urls, queue=queue, processes=1, python=python),
    ):
        yield queue


async def test_arguments_headers_and_expiry(client: AsyncCelery, old_queue: str) -> None:
    sum_ = await client.send_task("add", (20,), {"y": 22}, queue=old_queue, result_type=int)
    headers = await client.send_task("echo_headers", queue=old_queue, headers={"tenant": "blue"}, expires=60)
    assert await sum_.result(timeout=10) == 42
    status = await client.handle(sum_.id).status()
    assert (status.state, status.name, status.result, status.attempts) == (TaskState.SUCCESS, "add", 42, 1)
    seen = await headers.result(timeout=10)
    assert seen["tenant"] == "blue"
    left = datetime.fromisoformat(seen["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=45) < left <= timedelta(seconds=60)


async def test_what_json_can_say_comes_back(client: AsyncCelery, old_queue: str) -> None:
    value = {"text": "ä\U0001f600", "list": [None, True, 1.5, -(2**53)], "nested": {"": {}}}
    assert await (await client.send_task("echo", (value,), queue=old_queue)).result(timeout=10) == value


async def test_a_countdown_is_waited_for(client: AsyncCelery, old_queue: str) -> None:
    handle = await client.send_task("add", (1, 2), queue=old_queue, countdown=1)
    assert await handle.result(timeout=10) == 3
    status = await handle.status()
    assert status.accepted_at is not None
    assert status.finished_at is not None
    assert status.finished_at - status.accepted_at >= timedelta(seconds=1)


async def test_a_failure_has_type_and_message(client: AsyncCelery, old_queue: str) -> None:
    handle = await client.send_task("fail", kwargs={"message": "no luck"}, queue=old_queue)
    with pytest.raises(TaskFailed) as caught:
        await handle.result(timeout=10)
    assert (caught.value.type, caught.value.message) == ("ValueError", "no luck")


async def test_workflows(client: AsyncCelery, celery_app: Celery, old_queue: str) -> None:
    def add(*args: int) -> "Signature[Any]":
        return celery_app.signature("add", args=args, queue=old_queue)

    total = celery_app.signature("total", queue=old_queue)
    handles = [
        await client.submit(chain(add(1, 2), add(3), add(4))),
        await client.submit(group(add(n, n) for n in range(3))),
        await client.submit(chord([add(n, n) for n in range(3)], total)),
        await client.submit(chain(add(1, 1), group(add(1), add(2)), total, add(10))),
    ]
    assert [await handle.result(timeout=15) for handle in handles] == [10, [0, 2, 4], 6, 17]


async def test_a_chain_that_is_long_enough_to_be_compressed(
    client: AsyncCelery, celery_app: Celery, old_queue: str
) -> None:
    def add(*args: int) -> "Signature[Any]":
        return celery_app.signature("add", args=args, queue=old_queue)

    handle = await client.submit(chain(add(1, 2), *(add(1) for _ in range(40))))
    assert await handle.result(timeout=30) == 43


async def test_a_chords_failure_reaches_its_body(client: AsyncCelery, celery_app: Celery, old_queue: str) -> None:
    fail = celery_app.signature("fail", queue=old_queue)
    add = celery_app.signature("add", args=(1, 1), queue=old_queue)
    handle = await client.submit(chord([add, fail], celery_app.signature("total", queue=old_queue)))
    with pytest.raises(TaskFailed) as caught:
        await handle.result(timeout=10)
    assert (caught.value.name, caught.value.message) == ("fail", "boom")


async def test_a_cancelled_task_never_runs(
    client: AsyncCelery, old_queue: str, gate: Gate, notes: Notes, eventually: Eventually
) -> None:
    running = await client.send_task("hold", (gate.path,), queue=old_queue)
    cancelled = await client.send_task("note", (notes.path, "cancelled"), queue=old_queue)

    async def runs() -> bool:
        return (await running.status()).state is TaskState.STARTED

    await eventually(runs)
    assert await cancelled.cancel()
    gate.open()
    last = await client.send_task("note", (notes.path, "last"), queue=old_queue)
    await last.result(timeout=10)
    assert notes.read() == ["last"]
    with pytest.raises(TaskRevoked):
        await cancelled.result(timeout=10)


async def test_a_cancelled_task_that_runs_is_stopped(
    client: AsyncCelery, old_queue: str, gate: Gate, eventually: Eventually
) -> None:
    handle = await client.send_task("hold", (gate.path,), queue=old_queue)

    async def runs() -> bool:
        return (await handle.status()).state is TaskState.STARTED

    await eventually(runs)
    assert await handle.cancel()
    with pytest.raises(TaskRevoked):
        await handle.result(timeout=10)
    gate.open()
    # It was stopped at its gate, and the worker still works.
    assert await (await client.send_task("add", (1, 1), queue=old_queue)).result(timeout=10) == 2
    assert gate.log() == ["started"]
