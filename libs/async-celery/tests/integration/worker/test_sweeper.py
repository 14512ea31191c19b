"""What the sweeper promises: every workflow has ended by its deadline, and none with a wrong result."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import chain, chord, group

from async_celery import AsyncCelery, TaskExpired, TaskFailed, TaskHandle, TaskRevoked, TaskState
from async_celery.types import DEADLINES, TaskRecord, record_key

from ..conftest import KEY, Address
from .reaper_process import ReaperProcess
from .tasks_app import make_app
from .worker_process import WorkerProcess, close_app, wait_until

LIMIT = 1  # s


@pytest.fixture(scope="module")
def site(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker that is not started; its tasks may run for a second."""
    conf: dict[str, object] = {"task_time_limit": LIMIT}
    site = WorkerProcess(tmp_path_factory.mktemp("site"), broker=vhost, backend=backend.url(), conf=conf)
    yield site
    site.close()


@pytest.fixture(autouse=True, scope="module")
def reapers(site: WorkerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two: they do each other no harm."""
    one, other = [ReaperProcess(tmp_path_factory.mktemp("reaper"), site.settings) for _ in range(2)]
    try:
        one.launch()
        other.start()
        yield
    finally:
        one.close()
        other.close()


@pytest.fixture
async def client(site: WorkerProcess) -> AsyncIterator[AsyncCelery]:
    async with AsyncCelery(site.client, task_id_key=KEY, task_deadline=600) as client:
        yield client


def members(handle: TaskHandle[Any]) -> list[str]:
    """Return the ids of a workflow's tasks, in their order."""
    return handle._task_ids()


def store(site: WorkerProcess, task_id: str, state: str, result: Any = None) -> None:
    """Store a state, as a worker does."""
    backend: Any = site.client.backend
    meta = {"status": state, "result": result, "traceback": None, "children": [], "task_id": task_id}
    backend.client.set(backend.get_key_for_task(task_id), json.dumps(meta), ex=60)


def is_due(redis_client: "redis.Redis", handle: TaskHandle[Any]) -> bool:
    return redis_client.zscore(DEADLINES, handle.id) is not None


async def swept(redis_client: "redis.Redis", handle: TaskHandle[Any]) -> None:
    """Wait until a workflow is none of the sweeper's business any more."""
    await asyncio.to_thread(wait_until, lambda: not is_due(redis_client, handle), what=f"the end of {handle.id}")


async def test_what_nobody_started_expires(
    site: WorkerProcess, client: AsyncCelery, redis_client: "redis.Redis"
) -> None:
    app = site.client
    add, total = app.signature("add", args=(1, 1)), app.signature("total")
    canvases: list[Any] = [add, chain(add, add), group([add, add], app=app), chord([add, add], total, app=app)]
    handles = [await client.submit(canvas, expires=0.5) for canvas in canvases]
    waits = [asyncio.create_task(handle.result(timeout=20)) for handle in handles]
    for handle, wait in zip(handles, waits, strict=True):
        with pytest.raises(TaskRevoked, match="expired"):
            await wait
        await swept(redis_client, handle)
        status = await handle.status()
        assert {child.state for child in status.children or (status,)} == {TaskState.REVOKED}


async def test_what_has_ended_is_left_alone(
    site: WorkerProcess, client: AsyncCelery, redis_client: "redis.Redis"
) -> None:
    app = site.client
    add = app.signature("add", args=(1, 1))
    done, failed, waiting = [await client.submit(chain(add, add), expires=e) for e in (0.2, 0.2, 60)]
    for task_id in members(done):
        store(site, task_id, "SUCCESS", 2)
    store(site, members(failed)[0], "FAILURE", {"exc_type": "ValueError", "exc_message": ["no"]})
    await swept(redis_client, done)
    await swept(redis_client, failed)
    assert await done.result(timeout=20) == 2
    with pytest.raises(TaskFailed, match="no"):
        await failed.result(timeout=20)
    # Nothing was stored for what would have followed.
    assert (await failed.status()).children[1].state is TaskState.QUEUED
    assert is_due(redis_client, waiting)
    assert (await waiting.status()).state is TaskState.QUEUED


async def test_f3_a_chord_whose_body_was_never_sent_ends(
    site: WorkerProcess, client: AsyncCelery, redis_client: "redis.Redis"
) -> None:
    app = site.client
    header = [app.signature("add", args=(n, 1)) for n in range(3)]
    handle = await client.submit(chord(header, app.signature("total"), app=app), expires=0.5)
    for task_id in members(handle)[:-1]:
        store(site, task_id, "SUCCESS", 1)
    with pytest.raises(TaskRevoked, match="expired") as caught:
        await handle.result(timeout=20)
    assert caught.value.task_id == handle.id
    await swept(redis_client, handle)


async def test_f7_a_chord_that_outlives_its_results_ends(
    site: WorkerProcess, redis_client: "redis.Redis"
) -> None:
    app = make_app(replace(site.settings, conf={**site.settings.conf, "result_expires": 1}))
    header = [app.signature("add", args=(n, 1)) for n in range(2)]
    async with AsyncCelery(app, task_id_key=KEY, task_deadline=1) as client:
        handle = await client.submit(chord(header, app.signature("total"), app=app))
        for task_id in members(handle)[:-1]:
            store(site, task_id, "SUCCESS", 1)
            redis_client.pexpire(f"celery-task-meta-{task_id}", 500)
        # Whoever looks first, the client at the deadline or the sweeper: it is over.
        with pytest.raises((TaskRevoked, TaskExpired)):
            await handle.result(timeout=20)
        await swept(redis_client, handle)
        with pytest.raises((TaskRevoked, TaskExpired)):
            await handle.result(timeout=20)
    close_app(app)


async def test_what_runs_has_its_time_limit(
    site: WorkerProcess, client: AsyncCelery, redis_client: "redis.Redis"
) -> None:
    """A worker that is lost without a trace leaves STARTED for ever."""
    app = site.client
    add = app.signature("add", args=(1, 1))
    ends, lost = [await client.submit(group([add, add], app=app), expires=60) for _ in range(2)]
    for handle in (ends, lost):
        store(site, members(handle)[0], "SUCCESS", 2)
        store(site, members(handle)[1], "STARTED", {"pid": 1, "hostname": "lost"})
    due = make_due(redis_client, ends, seconds_ago=LIMIT)

    def is_looked_at() -> bool:
        score = redis_client.zscore(DEADLINES, ends.id)
        return score is not None and score > due

    await asyncio.to_thread(wait_until, is_looked_at, what="the sweeper's look")
    assert (await ends.status()).state is TaskState.STARTED
    store(site, members(ends)[1], "SUCCESS", 2)
    await swept(redis_client, ends)
    assert await ends.result(timeout=20) == [2, 2]
    make_due(redis_client, lost, seconds_ago=LIMIT + 60)
    with pytest.raises(TaskFailed, match="TimeLimitPassed"):
        await lost.result(timeout=20)
    await swept(redis_client, lost)


def make_due(redis_client: "redis.Redis", handle: TaskHandle[Any], *, seconds_ago: float) -> float:
    """Let a workflow's deadline have passed; return that."""
    stored = redis_client.get(record_key(handle.id))
    assert isinstance(stored, bytes)
    deadline = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    redis_client.set(record_key(handle.id), replace(TaskRecord.decode(stored), deadline=deadline).encode(), ex=60)
    redis_client.zadd(DEADLINES, {handle.id: deadline.timestamp()})
    return deadline.timestamp()


async def test_records_that_are_none_are_dropped(redis_client: "redis.Redis") -> None:
    times = {"accepted_at": "2025-01-01T00:00:00Z", "deadline": "2025-01-01T00:00:00Z"}
    childless = {"kind": "chord", "id": "x", "name": "chord", "children": []}
    redis_client.set(record_key("nonsense"), "{", ex=60)
    redis_client.set(record_key("childless"), json.dumps({**times, "tree": childless}), ex=60)
    names = ["nonsense", "childless", "forgotten"]
    redis_client.zadd(DEADLINES, dict.fromkeys(names, 1))
    await asyncio.to_thread(wait_until, lambda: redis_client.zmscore(DEADLINES, names) == [None] * 3)
