"""Cancelled by a client, with real workers: what has not started never starts, whatever it is part of."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import chain, chord, group

from async_celery import AsyncCelery, ResultTimeout, TaskFailed, TaskRevoked, TaskState
from async_celery.tombstones import key_of
from async_celery.worker import Policy

from ..conftest import KEY
from .conftest import WorkerFactory
from .worker_process import WorkerProcess, wait_until


@pytest.fixture
def worker(make_worker: WorkerFactory) -> WorkerProcess:
    """One that is not started yet, and looks for cancellations often."""
    return make_worker(policy=Policy(cancel_check_interval=0.1, cancel_grace=0.5), processes=2)


@pytest.fixture
async def client(worker: WorkerProcess) -> AsyncIterator[AsyncCelery]:
    async with AsyncCelery(worker.client, task_id_key=KEY, task_deadline=600) as client:
        yield client


async def test_r13_cancelled_while_no_worker_is_up_it_never_starts(
    worker: WorkerProcess, client: AsyncCelery, redis_client: "redis.Redis"
) -> None:
    app = worker.client
    add, total = app.signature("add", args=(1, 1)), app.signature("total")
    canvases: list[Any] = [
        add,
        chain(add, app.signature("echo"), app.signature("echo")),
        group([add, add], app=app),
        chord([add, add], total, app=app),
        chain(add, group([app.signature("echo"), app.signature("echo")]), total),
    ]
    handles = [await client.submit(canvas) for canvas in canvases]
    alone = await client.send_task("add", (1, 1), queue=worker.settings.queue)
    given_up = await client.send_task("add", (1, 1), queue=worker.settings.queue)
    handles.append(alone)
    for handle in handles:
        assert await handle.cancel()
        assert not await handle.cancel()
    with pytest.raises(ResultTimeout) as caught:
        await given_up.result(timeout=0.1)
    assert caught.value.revoked
    # What is stored now is for readers. It is not what keeps workers from running them.
    for handle in (*handles, given_up):
        redis_client.delete(*(f"celery-task-meta-{task_id}" for task_id in handle._task_ids()))
    last = await client.send_task("add", (2, 2), queue=worker.settings.queue)
    await asyncio.to_thread(worker.start)
    assert await last.result(timeout=15) == 4
    assert {run.task_id for run in worker.oracle.executions()} == {last.id}
    for handle in (*handles, given_up):
        with pytest.raises((TaskRevoked, TaskFailed)):
            await handle.result(timeout=20)


async def test_a_workflow_is_cancelled_with_what_it_has_started(
    worker: WorkerProcess, client: AsyncCelery, redis_client: "redis.Redis", tmp_path: Path
) -> None:
    app = worker.client
    hold = app.signature("hold", args=(str(tmp_path / "gate"),))
    handle = await client.submit(chain(group([hold, hold, hold]), app.signature("echo")))
    await asyncio.to_thread(worker.start)
    await asyncio.to_thread(
        wait_until, lambda: len(worker.oracle.executions()) == 2, what="the start of two members"
    )
    assert await handle.cancel()
    assert redis_client.exists(key_of(handle.id))
    with pytest.raises(TaskRevoked):
        await handle.result(timeout=20)
    # What runs is stopped: both processes are free again, though nobody has opened the gate.
    others = [await client.send_task("add", (n, n), queue=worker.settings.queue) for n in range(2)]
    assert [await other.result(timeout=20) for other in others] == [0, 2]

    async def all_revoked() -> bool:
        states = {child.state for child in (await handle.status()).children}
        return states <= {TaskState.REVOKED, TaskState.FAILURE}

    async with asyncio.timeout(5):
        while not await all_revoked():  # noqa: ASYNC110 (other processes set no events)
            await asyncio.sleep(0.05)
    assert len(worker.oracle.executions()) == 4


async def test_what_runs_may_end_and_nothing_follows_it(
    worker: WorkerProcess, client: AsyncCelery, tmp_path: Path
) -> None:
    app = worker.client
    gate = tmp_path / "gate"
    handle = await client.submit(chain(app.signature("hold", args=(str(gate),)), app.signature("echo")))
    await asyncio.to_thread(worker.start)

    async def first_is(state: TaskState) -> None:
        async with asyncio.timeout(10):
            while (await handle.status()).children[0].state is not state:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.05)

    await first_is(TaskState.STARTED)
    assert await handle.cancel(terminate=False)
    gate.touch()
    with pytest.raises(TaskRevoked):
        await handle.result(timeout=20)
    await first_is(TaskState.SUCCESS)
    last = await client.send_task("add", (2, 2), queue=worker.settings.queue)
    assert await last.result(timeout=20) == 4
    assert len(worker.oracle.executions()) == 2


async def test_what_was_cancelled_stands_in_the_history(worker: WorkerProcess, client: AsyncCelery) -> None:
    handle = await client.send_task("add", (1, 1), queue=worker.settings.queue)
    await handle.cancel()
    page = await client.history(state=TaskState.REVOKED)
    assert handle.id in [entry.id for entry in page.entries]
