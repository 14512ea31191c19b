"""Watching: every change is pushed to whoever watches, in this process or another, until the end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from celery import Celery, chain

from async_celery import AsyncCelery, TaskExpired, TaskHandle, TaskNotFound, TaskState, TaskStatus

from .conftest import KEY, CeleryFactory, Gate, Proxy

pytestmark = pytest.mark.usefixtures("worker")


async def seen_by(handle: TaskHandle[object]) -> AsyncIterator[TaskStatus]:
    async with contextlib.aclosing(handle.watch()) as statuses, asyncio.timeout(15):
        async for status in statuses:
            yield status


async def test_progress_comes_as_it_is_reported(
    client: AsyncCelery, make_celery: CeleryFactory, queue: str, gate: Gate
) -> None:
    handle = await client.send_task("progress", (gate.path,), queue=queue)
    # Somebody else follows it by its id alone.
    async with AsyncCelery(make_celery(), task_id_key=KEY) as other:
        for watched in (handle, other.handle(handle.id)):
            async for status in seen_by(watched):
                assert not status.state.is_final
                if status.state is TaskState.PROGRESS:
                    assert status.progress == {"done": 1, "total": 2}
                    break
        endings = [asyncio.create_task(last(watched)) for watched in (handle, other.handle(handle.id))]
        gate.open()
        for ending in await asyncio.gather(*endings):
            assert (ending.state, ending.result) == (TaskState.SUCCESS, "done")


async def last(handle: TaskHandle[object]) -> TaskStatus:
    statuses = [status async for status in seen_by(handle)]
    assert [status.state.is_final for status in statuses] == [False] * (len(statuses) - 1) + [True]
    return statuses[-1]


async def test_a_workflow_is_watched_child_by_child(
    client: AsyncCelery, celery_app: Celery, queue: str, gate: Gate
) -> None:
    steps = [
        celery_app.signature("add", args=(1, 2), queue=queue),
        celery_app.signature("hold", args=(gate.path,), queue=queue, immutable=True),
    ]
    handle = await client.submit(chain(*steps))
    states: list[list[TaskState]] = []
    async for status in seen_by(handle):
        states.append([child.state for child in status.children])
        if states[-1] == [TaskState.SUCCESS, TaskState.STARTED]:
            gate.open()
    assert [TaskState.SUCCESS, TaskState.STARTED] in states
    assert states[-1] == [TaskState.SUCCESS, TaskState.SUCCESS]
    # Nothing goes back.
    order = [TaskState.QUEUED, TaskState.STARTED, TaskState.SUCCESS]
    for child in zip(*states, strict=True):
        assert [*child] == sorted(child, key=order.index)


async def test_an_outage_of_the_backend_is_waited_out(
    make_celery: CeleryFactory, backend_proxy: Proxy, queue: str, gate: Gate
) -> None:
    async with AsyncCelery(
        make_celery(backend_port=backend_proxy.port), task_id_key=KEY, backend_timeout=0.5
    ) as client:
        handle = await client.send_task("hold", (gate.path,), queue=queue)
        watching = asyncio.create_task(last(handle))
        async for status in seen_by(handle):
            if status.state is TaskState.STARTED:
                break
        await backend_proxy.refuse()
        gate.open()
        await asyncio.sleep(0.3)  # the result comes while nobody hears it
        assert not watching.done()
        await backend_proxy.open()
        assert (await watching).result == "released"


async def test_what_is_not_known_or_over_is_not_watched(
    client: AsyncCelery, make_celery: CeleryFactory, spare_queue: str
) -> None:
    with pytest.raises(TaskNotFound):
        await anext(seen_by(client.handle(str(uuid4()))))
    async with AsyncCelery(make_celery(), task_id_key=KEY, task_deadline=0.5) as impatient:
        handle = await impatient.send_task("add", (1, 1), queue=spare_queue)
        with pytest.raises(TaskExpired):
            async for status in seen_by(handle):
                assert status.state is TaskState.QUEUED
