"""Servers that refuse, hang, lose connections, return or reject messages: typed errors in time, and recovery."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from amqp import Channel
from celery import Celery, group
from kombu import Exchange, Queue

from async_celery import (
    AsyncCelery,
    BackendError,
    Blocked,
    Nacked,
    PublishError,
    PublishTimeout,
    ResultTimeout,
    TaskState,
    TransportError,
    Unroutable,
)

from .conftest import KEY, CeleryFactory, Eventually, Gate, Proxy

TIMEOUT = 0.5  # s, what these clients grant a server
GRACE = 0.4  # s, what a loaded machine adds


@pytest.fixture
async def via_broker_proxy(make_celery: CeleryFactory, broker_proxy: Proxy) -> AsyncIterator[AsyncCelery]:
    app = make_celery(broker_port=broker_proxy.port)
    async with AsyncCelery(app, task_id_key=KEY, publish_timeout=TIMEOUT) as client:
        yield client


@pytest.fixture
async def via_backend_proxy(make_celery: CeleryFactory, backend_proxy: Proxy) -> AsyncIterator[AsyncCelery]:
    app = make_celery(backend_port=backend_proxy.port)
    async with AsyncCelery(app, task_id_key=KEY, backend_timeout=TIMEOUT) as client:
        yield client


def count(channel: Channel, queue: str) -> int:
    declared: Any = channel.queue_declare(queue, passive=True)
    messages: int = declared.message_count
    return messages


@asynccontextmanager
async def ends_within(seconds: float) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    yield
    assert loop.time() - start < seconds


async def until_it_succeeds(call: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await call()
                break
            except PublishError:
                await asyncio.sleep(0.02)


async def test_broker_refuses_then_returns(
    via_broker_proxy: AsyncCelery, broker_proxy: Proxy, spare_queue: str, channel: Channel
) -> None:
    client = via_broker_proxy
    await client.send_task("add", (1, 1), queue=spare_queue)
    await client.ping_broker()
    await broker_proxy.refuse()
    # The first may have got there before the connection was lost; from then on nothing is sent.
    async with ends_within(TIMEOUT + GRACE):
        with pytest.raises(PublishTimeout):
            await client.send_task("add", (1, 1), queue=spare_queue)
    async with ends_within(GRACE):
        with pytest.raises(PublishError, match="not reachable"):
            await client.send_task("add", (1, 1), queue=spare_queue)
        with pytest.raises(PublishError, match="not reachable"):
            await client.ping_broker()
    # The other server is none the worse.
    await client.ping_backend()
    await broker_proxy.open()
    await until_it_succeeds(client.ping_broker)
    await client.send_task("add", (1, 1), queue=spare_queue)
    assert count(channel, spare_queue) == 2


async def test_broker_hangs_then_returns(
    via_broker_proxy: AsyncCelery, broker_proxy: Proxy, spare_queue: str
) -> None:
    client = via_broker_proxy
    await client.send_task("add", (1, 1), queue=spare_queue)
    broker_proxy.swallow()
    async with ends_within(TIMEOUT + GRACE):
        sends = [client.send_task("add", (1, 1), queue=spare_queue, task_id=f"id-{n}") for n in range(8)]
        errors = await asyncio.gather(*sends, return_exceptions=True)
    for n, error in enumerate(errors):
        assert isinstance(error, PublishError)
        assert error.task_id == f"id-{n}"
    assert all(isinstance(error, PublishTimeout) for error in errors)
    async with ends_within(TIMEOUT + GRACE):
        with pytest.raises(PublishError):
            await client.ping_broker()
    broker_proxy.open_again()
    await until_it_succeeds(lambda: client.send_task("add", (1, 1), queue=spare_queue))


@pytest.mark.parametrize("declared", [True, False], ids=["hangs at the confirm", "hangs at the declaration"])
async def test_a_hung_broker_does_not_hold_up_closing(
    via_broker_proxy: AsyncCelery, broker_proxy: Proxy, spare_queue: str, declared: bool
) -> None:
    client = via_broker_proxy
    await client.ping_broker()
    if declared:
        await client.send_task("add", (1, 1), queue=spare_queue)
    broker_proxy.swallow()
    with pytest.raises(PublishTimeout if declared else Blocked):
        await client.send_task("add", (1, 1), queue=spare_queue)
    async with ends_within(GRACE):
        await client.aclose()


async def test_a_hung_backend_does_not_hold_up_closing(
    via_backend_proxy: AsyncCelery, backend_proxy: Proxy
) -> None:
    client = via_backend_proxy
    await client.ping_backend()
    backend_proxy.swallow()
    with pytest.raises(BackendError):
        await client.ping_backend()
    async with ends_within(GRACE):
        await client.aclose()


async def test_a_lost_idle_connection_costs_no_send(
    via_broker_proxy: AsyncCelery, broker_proxy: Proxy, spare_queue: str, channel: Channel
) -> None:
    client = via_broker_proxy
    for sent in range(1, 4):
        await asyncio.gather(*(client.send_task("add", (1, 1), queue=spare_queue) for _ in range(4)))
        assert count(channel, spare_queue) == 4 * sent
        broker_proxy.reset()
    await client.ping_broker()


async def test_a_deleted_queue_is_noticed_and_declared_again(
    client: AsyncCelery, spare_queue: str, channel: Channel
) -> None:
    await client.send_task("add", (1, 1), queue=spare_queue)
    channel.queue_delete(spare_queue)
    with pytest.raises(Unroutable, match=spare_queue):
        await client.send_task("add", (1, 1), queue=spare_queue)
    await client.send_task("add", (1, 1), queue=spare_queue)
    assert count(channel, spare_queue) == 1


async def test_a_full_queue_refuses(make_celery: CeleryFactory, spare_queue: str, channel: Channel) -> None:
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = Queue(spare_queue, Exchange(spare_queue), routing_key=spare_queue, queue_arguments=arguments)
    async with AsyncCelery(make_celery(task_queues=[queue]), task_id_key=KEY) as client:
        await client.send_task("add", (1, 1), queue=spare_queue)
        with pytest.raises(Nacked) as caught:
            await client.send_task("add", (1, 1), queue=spare_queue, task_id="refused")
        assert caught.value.task_id == "refused"
        # The refusal's confirm is not taken for the next message's.
        with pytest.raises(Nacked):
            await client.send_task("add", (1, 1), queue=spare_queue)
        assert count(channel, spare_queue) == 1
    channel.exchange_delete(spare_queue)


async def test_a_queue_that_is_declared_otherwise_is_an_error_not_a_hang(
    client: AsyncCelery, spare_queue: str, channel: Channel
) -> None:
    channel.queue_declare(spare_queue, durable=False, auto_delete=False)
    with pytest.raises(PublishError, match="PRECONDITION_FAILED"):
        await client.send_task("add", (1, 1), queue=spare_queue)


async def test_messages_are_durable_and_expire(client: AsyncCelery, spare_queue: str, channel: Channel) -> None:
    handle = await client.send_task("add", (1,), {"y": 2}, queue=spare_queue, expires=60)
    message: Any = channel.basic_get(spare_queue, no_ack=True)
    assert message.properties["delivery_mode"] == 2
    assert message.properties["content_type"] == "application/json"
    assert 59_000 <= int(message.properties["expiration"]) <= 60_000
    assert message.properties["application_headers"]["id"] == handle.id


async def test_backend_refuses_then_returns(
    via_backend_proxy: AsyncCelery, backend_proxy: Proxy, spare_queue: str
) -> None:
    client = via_backend_proxy
    handle = await client.send_task("add", (1, 1), queue=spare_queue)
    assert (await handle.status()).state is TaskState.QUEUED
    await backend_proxy.refuse()
    async with ends_within(TIMEOUT + GRACE):
        with pytest.raises(BackendError, match="not reachable"):
            await handle.status()
        with pytest.raises(BackendError):
            await client.ping_backend()
    # A task can still be sent, its result comes later; a workflow cannot: its shape would be lost.
    await client.send_task("add", (1, 1), queue=spare_queue)
    with pytest.raises(BackendError):
        await client.submit(group(Celery().signature("add")))
    await backend_proxy.open()
    await client.ping_backend()
    assert (await handle.status()).state is TaskState.QUEUED


async def test_backend_hangs_then_returns(
    via_backend_proxy: AsyncCelery, backend_proxy: Proxy, spare_queue: str
) -> None:
    client = via_backend_proxy
    handle = await client.send_task("add", (1, 1), queue=spare_queue)
    await client.ping_backend()
    backend_proxy.swallow()
    async with ends_within(TIMEOUT + GRACE):
        errors = await asyncio.gather(*(handle.status() for _ in range(8)), return_exceptions=True)
    assert [type(error) for error in errors] == [BackendError] * 8
    # Sending does not depend on it.
    await client.send_task("add", (1, 1), queue=spare_queue)
    # A wait ends by its own deadline. Without a tombstone nobody can promise that the task never starts.
    async with ends_within(1 + GRACE):
        with pytest.raises(ResultTimeout) as caught:
            await handle.result(timeout=1)
    assert not caught.value.revoked
    with pytest.raises(BackendError):
        await handle.cancel()
    backend_proxy.open_again()
    async with asyncio.timeout(4 * TIMEOUT):
        while True:
            try:
                await client.ping_backend()
                break
            except BackendError:
                continue


@pytest.mark.usefixtures("worker")
async def test_a_wait_rides_out_an_outage_of_the_backend(
    via_backend_proxy: AsyncCelery,
    client: AsyncCelery,
    backend_proxy: Proxy,
    queue: str,
    gate: Gate,
    eventually: Eventually,
) -> None:
    handle = await via_backend_proxy.send_task("hold", (gate.path,), queue=queue)
    wait = asyncio.create_task(handle.result(timeout=20))
    await backend_proxy.refuse()
    gate.open()

    async def done() -> bool:
        return (await client.handle(handle.id).status()).state is TaskState.SUCCESS

    await eventually(done)
    assert not wait.done()
    await backend_proxy.open()
    assert await wait == "released"


async def test_a_cancellation_needs_no_broker(
    via_broker_proxy: AsyncCelery, broker_proxy: Proxy, spare_queue: str
) -> None:
    handle = await via_broker_proxy.send_task("add", (1, 1), queue=spare_queue)
    await broker_proxy.refuse()
    with pytest.raises(ResultTimeout) as caught:
        await handle.result(timeout=0.1)
    # The tombstone stands, whoever may be told of it now.
    assert caught.value.revoked
    assert (await handle.status()).state is TaskState.REVOKED
    other = via_broker_proxy.handle(handle.id)
    assert await other.cancel() is False


async def test_close_lets_sends_under_way_end(
    make_celery: CeleryFactory, spare_queue: str, channel: Channel
) -> None:
    before = asyncio.all_tasks()
    client = AsyncCelery(make_celery(), task_id_key=KEY)
    sends = [asyncio.create_task(client.send_task("add", (1, 1), queue=spare_queue)) for _ in range(40)]
    await asyncio.sleep(0)  # each has begun, none has a connection yet
    await client.aclose()
    handles = await asyncio.gather(*sends)
    assert count(channel, spare_queue) == len(handles) == 40
    # Nothing of it works on. (The thread that records large workflows ends with the client, and is idle.)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("stage", ["recorded", "published"])
async def test_close_leaves_no_workflow_half_sent(
    make_celery: CeleryFactory, spare_queue: str, channel: Channel, eventually: Eventually, stage: str
) -> None:
    app = make_celery()
    # So few at once that it takes some 200 round trips.
    client = AsyncCelery(app, task_id_key=KEY, max_in_flight=5)
    await client.send_task("add", (1, 1), queue=spare_queue)
    add = app.signature("add", args=(1, 1), queue=spare_queue)
    submission = asyncio.create_task(client.submit(group([add] * 1000), expires=60))
    await asyncio.sleep(0)  # it has begun, in a thread

    async def some_are_there() -> bool:
        return count(channel, spare_queue) > 1

    if stage == "published":
        await eventually(some_are_there)
    assert not submission.done()
    await client.aclose()
    await submission
    assert count(channel, spare_queue) == 1 + 1000


async def test_a_closed_client_refuses_at_once(client: AsyncCelery, queue: str) -> None:
    handle = client.handle(str(uuid4()))
    await client.aclose()
    await client.aclose()
    async with ends_within(0.1):
        for call in (
            lambda: client.send_task("add", (1, 1), queue=queue),
            lambda: client.submit(Celery().signature("add")),
            client.ping_broker,
            client.ping_backend,
            handle.status,
            handle.forget,
        ):
            with pytest.raises(TransportError, match="closed"):
                await call()
        with pytest.raises(TransportError, match="closed"):
            client.handle(handle.id)
