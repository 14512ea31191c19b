"""Single tasks against real servers: send, wait, status, cancel, forget."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import redis

from async_celery import (
    AsyncCelery,
    OnTimeout,
    PayloadError,
    ResultTimeout,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TaskRevoked,
    TaskState,
)

from .conftest import KEY, CeleryFactory, Eventually, Gate, Notes

pytestmark = pytest.mark.usefixtures("worker")


async def test_a_result_comes_back_as_its_type(client: AsyncCelery, queue: str) -> None:
    handle = await client.send_task("add", (20,), {"y": 22}, queue=queue, result_type=float)
    result = await handle.result(timeout=10)
    assert result == 42
    assert type(result) is float


async def test_status_of_a_finished_task(client: AsyncCelery, queue: str) -> None:
    before = datetime.now(UTC)
    handle = await client.send_task("add", (1, 2), queue=queue)
    await handle.result(timeout=10)
    # Another process knows the task by its id alone.
    status = await client.handle(handle.id).status()
    assert (status.id, status.name, status.state) == (handle.id, "add", TaskState.SUCCESS)
    assert (status.result, status.attempts, status.error, status.children) == (3, 1, None, ())
    assert status.worker is not None
    assert status.worker.startswith(queue)
    assert status.accepted_at is not None
    assert abs(status.accepted_at - before) < timedelta(seconds=2)
    assert status.finished_at is not None
    assert before <= status.finished_at <= datetime.now(UTC)


async def test_a_failure_carries_type_and_message_only(client: AsyncCelery, queue: str) -> None:
    handle = await client.send_task("fail", kwargs={"message": "no luck"}, queue=queue)
    with pytest.raises(TaskFailed) as caught:
        await handle.result(timeout=10)
    error = caught.value
    assert (error.task_id, error.name, error.type, error.message) == (handle.id, "fail", "ValueError", "no luck")
    assert "Traceback" not in str(error)
    status = await handle.status()
    assert status.state is TaskState.FAILURE
    assert status.result is None


async def test_started_then_progress_then_success(
    client: AsyncCelery, queue: str, gate: Gate, eventually: Eventually
) -> None:
    held = await client.send_task("hold", (gate.path,), queue=queue)
    reporting = await client.send_task("progress", (gate.path,), queue=queue)

    async def both_run() -> bool:
        states = [(await held.status()).state, (await reporting.status()).state]
        return states == [TaskState.STARTED, TaskState.PROGRESS]

    await eventually(both_run)
    assert (await held.status()).worker is not None
    assert (await held.status()).result is None
    assert (await reporting.status()).progress == {"done": 1, "total": 2}
    gate.open()
    assert await held.result(timeout=10) == "released"
    assert await reporting.result(timeout=10) == "done"


async def test_a_task_that_nobody_takes_is_queued(
    client: AsyncCelery, spare_queue: str, redis_client: redis.Redis
) -> None:
    handle = await client.send_task("add", (1, 1), queue=spare_queue, expires=60)
    assert (await handle.status()).state is TaskState.QUEUED
    assert (await client.handle(handle.id).status()).state is TaskState.QUEUED
    assert not redis_client.exists(f"task-record:{handle.id}")


async def test_retries_count_as_attempts(client: AsyncCelery, queue: str, notes: Notes) -> None:
    handle = await client.send_task("third_time", (notes.path,), queue=queue)
    assert await handle.result(timeout=10) == 2
    assert (await handle.status()).attempts == 3
    assert notes.read() == ["run"] * 3


async def test_unknown_and_foreign_ids_are_not_found(
    client: AsyncCelery, make_celery: CeleryFactory, spare_queue: str
) -> None:
    with pytest.raises(TaskNotFound):
        await client.handle(str(uuid4())).status()
    with pytest.raises(TaskNotFound):
        await client.handle(str(uuid4())).result(timeout=10)
    async with AsyncCelery(make_celery(), task_id_key=b"the key of another service") as other:
        foreign = await other.send_task("add", (1, 1), queue=spare_queue, expires=60)
    with pytest.raises(TaskNotFound):
        await client.handle(foreign.id).status()


async def test_an_id_past_its_deadline_is_expired(
    make_celery: CeleryFactory, spare_queue: str, eventually: Eventually
) -> None:
    async with AsyncCelery(make_celery(), task_id_key=KEY, task_deadline=0.5) as client:
        handle = await client.send_task("add", (1, 1), queue=spare_queue)
        assert (await handle.status()).state is TaskState.QUEUED

        async def is_expired() -> bool:
            try:
                await handle.status()
            except TaskExpired:
                return True
            return False

        await eventually(is_expired)
        with pytest.raises(TaskExpired):
            await client.handle(handle.id).result(timeout=10)


async def test_a_callers_own_id_is_used_and_waited_for(client: AsyncCelery, queue: str) -> None:
    task_id = str(uuid4())
    handle = await client.send_task("add", (1, 2), queue=queue, task_id=task_id)
    assert handle.id == task_id
    assert await handle.result(timeout=10) == 3
    assert (await client.handle(task_id).status()).result == 3


async def test_headers_and_deadline_reach_the_worker(client: AsyncCelery, queue: str) -> None:
    handle = await client.send_task("echo_headers", queue=queue, headers={"tenant": "blue"}, expires=60)
    seen = await handle.result(timeout=10)
    assert seen["tenant"] == "blue"
    left = datetime.fromisoformat(seen["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=45) < left <= timedelta(seconds=60)


async def test_a_timeout_revokes_what_has_started(client: AsyncCelery, queue: str, gate: Gate) -> None:
    handle = await client.send_task("hold", (gate.path,), queue=queue)
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(ResultTimeout) as caught:
        await handle.result(timeout=1)
    assert 1 <= loop.time() - start < 1.5
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.task_id, error.timeout, error.revoked) == (handle.id, 1, True)
    assert error.state is TaskState.STARTED
    with pytest.raises(TaskRevoked) as revoked:
        await handle.result(timeout=10)
    assert revoked.value.reason in ("revoked", "terminated")
    # It was stopped at its gate; and the worker still works.
    gate.open()
    follower = await client.send_task("add", (1, 1), queue=queue)
    assert await follower.result(timeout=10) == 2
    assert gate.log() == ["started"]


async def test_a_timeout_keeps_the_task_when_asked(client: AsyncCelery, queue: str, gate: Gate) -> None:
    handle = await client.send_task("hold", (gate.path,), queue=queue)
    with pytest.raises(ResultTimeout) as caught:
        await handle.result(timeout=0.5, on_timeout=OnTimeout.KEEP)
    assert not caught.value.revoked
    gate.open()
    assert await handle.result(timeout=10) == "released"


async def test_cancelled_before_it_starts_it_never_runs(
    client: AsyncCelery, queue: str, gate: Gate, notes: Notes
) -> None:
    holders = [await client.send_task("hold", (gate.path,), queue=queue) for _ in range(2)]
    cancelled = await client.send_task("note", (notes.path, "cancelled"), queue=queue)
    assert await cancelled.cancel() is True
    assert (await cancelled.status()).state is TaskState.REVOKED
    gate.open()
    await asyncio.gather(*(holder.result(timeout=10) for holder in holders))
    # The queue is first in, first out: once the last one is done, the cancelled one has been met.
    last = [await client.send_task("note", (notes.path, "last"), queue=queue) for _ in range(2)]
    await asyncio.gather(*(handle.result(timeout=10) for handle in last))
    assert notes.read() == ["last", "last"]
    with pytest.raises(TaskRevoked):
        await cancelled.result(timeout=10)
    assert await cancelled.cancel() is False


async def test_a_finished_task_cannot_be_cancelled(client: AsyncCelery, queue: str) -> None:
    handle = await client.send_task("add", (1, 1), queue=queue)
    await handle.result(timeout=10)
    assert await handle.cancel() is False
    assert (await handle.status()).state is TaskState.SUCCESS


async def test_cancel_can_let_a_started_task_end(
    client: AsyncCelery, queue: str, gate: Gate, eventually: Eventually
) -> None:
    handle = await client.send_task("hold", (gate.path,), queue=queue)

    async def runs() -> bool:
        return (await handle.status()).state is TaskState.STARTED

    await eventually(runs)
    assert await handle.cancel(terminate=False) is True
    gate.open()
    assert await handle.result(timeout=10) == "released"


async def test_expired_in_the_queue_it_never_runs(
    client: AsyncCelery, queue: str, gate: Gate, notes: Notes
) -> None:
    holders = [await client.send_task("hold", (gate.path,), queue=queue) for _ in range(2)]
    late = await client.send_task("note", (notes.path, "late"), queue=queue, expires=0.2)
    with pytest.raises(ResultTimeout):
        await late.result(timeout=0.5, on_timeout=OnTimeout.KEEP)
    gate.open()
    await asyncio.gather(*(holder.result(timeout=10) for holder in holders))
    last = await client.send_task("note", (notes.path, "last"), queue=queue)
    await last.result(timeout=10)
    assert notes.read() == ["last"]


async def test_forget_deletes_the_result(client: AsyncCelery, queue: str, redis_client: redis.Redis) -> None:
    handle = await client.send_task("add", (1, 1), queue=queue)
    await handle.result(timeout=10)
    assert redis_client.exists(f"celery-task-meta-{handle.id}")
    await handle.forget()
    assert not redis_client.exists(f"celery-task-meta-{handle.id}")


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("argument", [object(), 10**5000, CIRCLE], ids=["object", "long", "circle"])
async def test_what_cannot_be_serialised_is_not_sent(client: AsyncCelery, queue: str, argument: object) -> None:
    with pytest.raises(PayloadError, match="cannot be serialised"):
        await client.send_task("add", (argument, 1), queue=queue)


@pytest.mark.parametrize("argument", ["\ud800", float("nan"), "\0", "\U0001f600", "", {"a": [None, True, 1.5]}])
async def test_odd_values_travel_or_are_refused(client: AsyncCelery, queue: str, argument: object) -> None:
    try:
        handle = await client.send_task("echo", (argument,), queue=queue)
    except PayloadError:
        assert argument == "\ud800"
    else:
        assert repr(await handle.result(timeout=10)) == repr(argument)


async def test_expires_must_lie_within_the_deadline(client: AsyncCelery, queue: str) -> None:
    for expires in (0, -1, 3601):
        with pytest.raises(ValueError, match="expires"):
            await client.send_task("add", (1, 1), queue=queue, expires=expires)


async def test_a_result_that_is_not_its_type_is_a_failure(client: AsyncCelery, queue: str) -> None:
    def refuse(value: object) -> int:
        raise ValueError(f"{value} is no answer")

    handle = await client.send_task("add", (1, 1), queue=queue, result_type=refuse)
    with pytest.raises(TaskFailed, match="2 is no answer"):
        await handle.result(timeout=10)


@pytest.mark.parametrize(
    "payload",
    [b"\x80\x04N.", b"{", json.dumps({"status": "SUCCESS", "result": 0}).replace("0", "9" * 5000).encode()],
)
async def test_a_result_that_is_not_json_is_a_failure(
    client: AsyncCelery, redis_client: redis.Redis, payload: bytes
) -> None:
    """A pickle, a torso, a number longer than Python reads."""
    task_id = str(uuid4())
    redis_client.set(f"celery-task-meta-{task_id}", payload, ex=60)
    with pytest.raises(TaskFailed, match="not readable as JSON"):
        await client.handle(task_id).result(timeout=10)


async def test_an_abandoned_wait_leaves_nothing_behind(client: AsyncCelery, queue: str, gate: Gate) -> None:
    handle = await client.send_task("hold", (gate.path,), queue=queue)
    await client.ping_backend()  # from here on, everything is connected
    before = asyncio.all_tasks()
    wait = asyncio.create_task(handle.result(timeout=60))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert asyncio.all_tasks() == before
    # Giving up waiting is not giving up the task.
    gate.open()
    assert await handle.result(timeout=10) == "released"
