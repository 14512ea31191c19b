"""Fault rows F1, F5, F8 of workflows, and the hop from one step of a chain to the next after the deadline.

How it works: a real worker; where it must not be faster than the test, both of its processes wait at a gate. The
process that submits and is killed is `submit_and_stall`, run as a script of its own.

What belongs here: that a workflow in which something goes wrong ends, in a state that says what it was.
"""

import asyncio
import contextlib
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord

from async_celery import AsyncCelery, TaskExpired, TaskFailed, TaskHandle, TaskRevoked, TaskState
from async_celery.types import Publication

from .conftest import KEY, CeleryFactory, Eventually, Gate, Notes
from .faults import scaled

pytestmark = pytest.mark.usefixtures("worker")

HEADER = 20
DEADLINE = 2.0  # s


@pytest.fixture
async def hurried(celery_app: Celery) -> AsyncIterator[AsyncCelery]:
    """A client whose tasks have little time."""
    async with AsyncCelery(celery_app, task_id_key=KEY, task_deadline=DEADLINE) as client:
        yield client


@pytest.fixture
async def stop_worker(
    client: AsyncCelery, queue: str, make_gate: Callable[[], Gate], eventually: Eventually
) -> Callable[[], Any]:
    """Return a function that keeps both processes of the worker busy; it returns what lets them go on."""

    async def stop() -> Callable[[], None]:
        gate = make_gate()
        held = [await client.send_task("hold", (gate.path,), queue=queue) for _ in range(2)]

        async def both_hold() -> bool:
            return [(await handle.status()).state for handle in held] == [TaskState.STARTED] * 2

        await eventually(both_hold)
        return gate.open

    return stop


def _stored(redis_client: redis.Redis, task_id: str) -> dict[str, Any]:
    """Return what Celery stored for a task, {} for nothing."""
    value: Any = redis_client.get(f"celery-task-meta-{task_id}")
    meta: dict[str, Any] = json.loads(value or "{}")
    return meta


def _failed(redis_client: redis.Redis, task_id: str) -> Callable[[], Awaitable[bool]]:
    async def failed() -> bool:
        return _stored(redis_client, task_id).get("status") == "FAILURE"

    return failed


async def test_f1_a_header_that_raises_fails_the_body_and_is_named(
    client: AsyncCelery, celery_app: Celery, redis_client: redis.Redis, eventually: Eventually
) -> None:
    for _ in range(scaled(2, 20)):
        header = [celery_app.signature("add", args=(n, n)) for n in range(49)]
        header.insert(random.randrange(50), celery_app.signature("fail"))
        handle = await client.submit(chord(header, celery_app.signature("total")))
        with pytest.raises(TaskFailed) as caught:
            await handle.result(timeout=10)
        (child,) = [child for child in (await handle.status()).children if child.name == "fail"]
        assert (caught.value.task_id, caught.value.message) == (child.id, "boom")

        # The body is over as well, for whoever looks at it alone.
        async with asyncio.timeout(2):
            await eventually(_failed(redis_client, handle.id))
        assert child.id in str(_stored(redis_client, handle.id)["result"]["exc_message"])
        assert (await handle.status()).state is TaskState.FAILURE


async def submit_and_stall(url: str, backend_url: str, queue: str, notes: str, published: int) -> None:
    """Submit a chord, but stop in the middle of publishing its header; say on stdout what has happened."""
    app = Celery(broker=url, backend=backend_url, set_as_current=False)
    app.conf.update(task_default_queue=queue, broker_transport_options={"confirm_publish": True})
    client = AsyncCelery(app, task_id_key=KEY, task_deadline=DEADLINE)
    broker: Any = client._link.broker
    publish_all = broker.publish_all

    async def stall(publications: list[Publication], **options: Any) -> None:
        await publish_all(publications[:published], **options)
        headers = publications[0].options["headers"]
        body = publications[0].body[2]["chord"]
        print(json.dumps({"group": headers["group"], "workflow": body.options["task_id"]}), flush=True)
        await asyncio.sleep(60)

    broker.publish_all = stall
    header = [app.signature("note", args=(notes, str(n))) for n in range(HEADER)]
    await client.submit(chord(header, app.signature("note", args=(notes, "body"), immutable=True)))
    print("answered", flush=True)


async def _submit_and_die(celery_app: Celery, queue: str, notes: Notes, published: int) -> dict[str, str]:
    """Run `submit_and_stall` in a process, kill it when it stalls, and return what it said."""
    code = "import asyncio, sys; from tests.integration.test_workflow_faults import submit_and_stall as run; "
    code += "asyncio.run(run(*sys.argv[1:5], int(sys.argv[5])))"
    conf = celery_app.conf
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, conf.broker_url, conf.result_backend, queue, notes.path, str(published)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        said: dict[str, str] = json.loads(await process.stdout.readline())
        process.kill()
        answered, _ = await process.communicate()
    assert answered == b""
    return said


async def _is_over(handle: TaskHandle[Any]) -> bool:
    try:
        return (await handle.status()).state.is_final
    except TaskExpired:
        return True


async def test_f5_a_submitter_killed_in_the_header_leaves_nothing_that_hangs(
    hurried: AsyncCelery,
    celery_app: Celery,
    redis_client: redis.Redis,
    queue: str,
    tmp_path: Path,
    eventually: Eventually,
) -> None:
    async def kill_after(published: int) -> None:
        notes = Notes(tmp_path / str(published))
        said = await _submit_and_die(celery_app, queue, notes, published)
        # So the parts that did get out can never be taken for all.
        assert redis_client.get(f"celery-taskset-meta-{said['group']}.s") == str(HEADER).encode()
        handle = hurried.handle(said["workflow"])
        await eventually(lambda: _is_over(handle))
        with pytest.raises(TaskExpired):
            await handle.result(timeout=1)
        written = notes.read() if published else []
        assert sorted(written, key=int) == [str(n) for n in range(published)]

    first = [0, HEADER // 2, HEADER - 1]
    others = [n for n in range(HEADER) if n not in first][: scaled(0, HEADER)]
    for several in (first, others[0::3], others[1::3], others[2::3]):
        await asyncio.gather(*(kill_after(published) for published in several))


async def test_f5_what_it_had_published_expires(
    hurried: AsyncCelery,
    client: AsyncCelery,
    celery_app: Celery,
    queue: str,
    notes: Notes,
    eventually: Eventually,
    stop_worker: Callable[[], Any],
) -> None:
    go_on = await stop_worker()
    said = await _submit_and_die(celery_app, queue, notes, HEADER // 2)
    handle = hurried.handle(said["workflow"])
    await eventually(lambda: _is_over(handle))
    go_on()
    last = await client.send_task("note", (notes.path, "last"), queue=queue)
    assert await last.result(timeout=10) == "last"
    assert notes.read() == ["last"]
    assert await _is_over(handle)


async def test_f8_an_expired_header_task_fails_the_body(
    client: AsyncCelery, celery_app: Celery, redis_client: redis.Redis, eventually: Eventually
) -> None:
    add = celery_app.signature("add", args=(1, 1))
    late = add.clone().set(expires=datetime.now(UTC) - timedelta(seconds=10))
    handle = await client.submit(chord([add, late, add], celery_app.signature("total")))
    with pytest.raises(TaskRevoked) as caught:
        await handle.result(timeout=10)
    children = (await handle.status()).children
    assert (caught.value.task_id, caught.value.reason) == (children[1].id, "expired")
    await eventually(_failed(redis_client, handle.id))
    assert (await handle.status()).state is TaskState.REVOKED


async def test_f8_a_revoked_header_task_ends_the_chord(
    client: AsyncCelery,
    celery_app: Celery,
    redis_client: redis.Redis,
    notes: Notes,
    eventually: Eventually,
    stop_worker: Callable[[], Any],
) -> None:
    go_on = await stop_worker()
    header = [celery_app.signature("note", args=(notes.path, str(n))) for n in range(3)]
    handle = await client.submit(chord(header, celery_app.signature("total")))
    revoked = (await handle.status()).children[1].id

    def revoke() -> Any:
        with celery_app.connection_for_write() as connection:
            return celery_app.control.revoke(revoked, reply=True, limit=1, timeout=5, connection=connection)

    assert await asyncio.to_thread(revoke)
    go_on()
    with pytest.raises(TaskRevoked) as caught:
        await handle.result(timeout=10)
    assert caught.value.task_id == revoked
    await eventually(_failed(redis_client, handle.id))
    assert sorted(notes.read()) == ["0", "2"]


async def test_the_cause_is_named_though_only_its_echo_was_heard(
    client: AsyncCelery, celery_app: Celery, redis_client: redis.Redis, spare_queue: str
) -> None:
    """As it happens to who begins to listen between the two, which Celery stores one right after the other."""
    steps = [celery_app.signature(name, queue=spare_queue) for name in ("fail", "add")]
    handle = await client.submit(chain(*steps), expires=60)
    cause, echo = [child.id for child in (await handle.status()).children]
    error = {"exc_type": "ValueError", "exc_message": ["boom"], "exc_module": "builtins"}

    def store(task_id: str, *, status: str, is_heard: bool) -> None:
        key, value = f"celery-task-meta-{task_id}", json.dumps({"status": status, "result": error})
        redis_client.set(key, value, ex=60)
        if is_heard:
            redis_client.publish(key, value)

    wait = asyncio.create_task(handle.result(timeout=10))
    async with contextlib.aclosing(handle.watch()) as updates, asyncio.timeout(10):
        await anext(updates)
        store(cause, status="RETRY", is_heard=True)
        assert (await anext(updates)).state is TaskState.STARTED
        store(cause, status="FAILURE", is_heard=False)
        store(echo, status="FAILURE", is_heard=True)
        seen = await anext(updates)
    assert [child.state for child in seen.children] == [TaskState.FAILURE] * 2
    with pytest.raises(TaskFailed) as caught:
        await wait
    assert (caught.value.task_id, caught.value.name) == (cause, "fail")


async def test_a_step_that_would_begin_after_the_deadline_never_does(
    make_celery: CeleryFactory, gate: Gate, notes: Notes, queue: str, eventually: Eventually
) -> None:
    app = make_celery()
    async with AsyncCelery(app, task_id_key=KEY, task_deadline=DEADLINE) as client:
        steps: list[Any] = [
            app.signature("hold", args=(gate.path,)),
            app.signature("note", args=(notes.path, "late"), immutable=True),
        ]
        handle = await client.submit(chain(*steps))

        async def first_has_ended() -> bool:
            with contextlib.suppress(TaskExpired):
                return (await handle.status()).children[0].state is TaskState.SUCCESS
            return gate.log()[-1:] == ["ended"]

        await asyncio.sleep(DEADLINE)  # the fault itself: the first step takes as long as all had
        gate.open()
        await eventually(first_has_ended)
        # The worker publishes the second step with the deadline of the whole. Whether the broker drops it, or a
        # worker refuses it, is theirs to choose.
        with pytest.raises((TaskExpired, TaskRevoked)):
            await handle.result(timeout=10)
        last = await client.send_task("note", (notes.path, "last"), queue=queue)
        assert await last.result(timeout=10) == "last"
        assert notes.read() == ["last"]
        await eventually(lambda: _is_over(handle))
