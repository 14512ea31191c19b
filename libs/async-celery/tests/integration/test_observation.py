"""What an observer is told of sending: each message once, with its true end, over a real broker."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from amqp import Channel
from celery import Celery, group
from kombu import Exchange, Queue

from async_celery import AsyncCelery, Nacked, PayloadError, PublishError, PublishTimeout, Unroutable
from async_celery.observation import Observer, PublishOutcome
from async_celery.types import TaskMessage

from .conftest import KEY, BrokerFactory, CeleryFactory, Eventually, Proxy


class Witness(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[str, str, PublishOutcome]] = Counter()
        self.seconds: list[float] = []
        self.sizes: list[int] = []
        self.connections: list[str] = []

    def published(self, task: str, queue: str, outcome: PublishOutcome, seconds: float, size: int) -> None:
        self.ends[task, queue, outcome] += 1
        self.seconds.append(seconds)
        self.sizes.append(size)

    def connected(self, *, again: bool) -> None:
        self.connections.append("again" if again else "first")

    def disconnected(self) -> None:
        self.connections.append("lost")


@pytest.fixture
def witness() -> Witness:
    return Witness()


def task(queue: str, **kwargs: Any) -> TaskMessage:
    return TaskMessage(str(uuid4()), "add", (), kwargs, queue)


async def test_a_confirmed_message_is_ok_with_its_size_and_time(
    make_broker: BrokerFactory, spare_queue: str, witness: Witness
) -> None:
    publisher = make_broker(options={"observer": witness})
    await asyncio.gather(*(publisher.publish(task(spare_queue, text="x" * 1000)) for _ in range(50)))
    assert witness.ends == {("add", spare_queue, PublishOutcome.OK): 50}
    assert all(0 <= seconds < 5 for seconds in witness.seconds)
    assert all(1000 < size < 3000 for size in witness.sizes)
    assert witness.connections == ["first"]
    await publisher.aclose()
    assert witness.connections == ["first", "lost"]


async def test_what_the_broker_refuses_or_returns_is_told(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel, witness: Witness
) -> None:
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    full = Queue(spare_queue, Exchange(spare_queue), routing_key=spare_queue, queue_arguments=arguments)
    publisher = make_broker(task_queues=[full], options={"observer": witness})
    await publisher.publish(task(spare_queue))
    with pytest.raises(Nacked):
        await publisher.publish(task(spare_queue))
    channel.queue_delete(spare_queue)
    with pytest.raises(Unroutable):
        await publisher.publish(task(spare_queue))
    with pytest.raises(PayloadError):
        await publisher.publish(task(spare_queue, value=object()))
    ends = (PublishOutcome.OK, PublishOutcome.NACKED, PublishOutcome.UNROUTABLE, PublishOutcome.ERROR)
    assert witness.ends == {("add", spare_queue, outcome): 1 for outcome in ends}
    # What could not be encoded has no size.
    assert [size > 0 for size in witness.sizes] == [True, True, True, False]
    channel.exchange_delete(spare_queue)


async def test_a_silent_broker_an_impatient_sender_and_a_lost_connection_are_told(
    make_broker: BrokerFactory,
    broker_url_through: Callable[[Proxy], str],
    broker_proxy: Proxy,
    spare_queue: str,
    witness: Witness,
    eventually: Eventually,
) -> None:
    publisher = make_broker(broker_url_through(broker_proxy), timeout=0.5, options={"observer": witness})
    await publisher.publish(task(spare_queue))
    broker_proxy.swallow()
    with pytest.raises(PublishTimeout):
        await publisher.publish(task(spare_queue))
    assert 0.4 < witness.seconds[-1] < 3
    impatient = asyncio.ensure_future(publisher.publish(task(spare_queue)))
    await asyncio.sleep(0.05)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    assert witness.ends["add", spare_queue, PublishOutcome.TIMEOUT] == 2
    await broker_proxy.refuse()

    async def refused() -> bool:
        try:
            await publisher.publish(task(spare_queue))
        except PublishError:
            return witness.ends["add", spare_queue, PublishOutcome.ERROR] > 0
        return False

    await eventually(refused)
    broker_proxy.open_again()
    await broker_proxy.open()

    async def back() -> bool:
        return "again" in witness.connections

    await eventually(back)
    assert witness.connections == ["first", "lost", "again"]


@pytest.fixture
def broker_url_through(broker: Any) -> Callable[[Proxy], str]:
    def through(proxy: Proxy) -> str:
        return str(broker.url(proxy.port))

    return through


async def test_a_workflows_tasks_are_told_one_by_one_and_a_revoke_is_no_task(
    make_celery: CeleryFactory, spare_queue: str, witness: Witness
) -> None:
    app = make_celery()
    async with AsyncCelery(app, task_id_key=KEY, observer=witness) as client:
        handle = await client.submit(
            group(app.signature("add", args=(n, n), queue=spare_queue) for n in range(7)), expires=30
        )
        await handle.cancel()
    assert witness.ends == {("add", spare_queue, PublishOutcome.OK): 7}


async def test_a_workflow_that_is_not_begun_is_one_error(witness: Witness, spare_queue: str) -> None:
    app = Celery(broker="amqp://127.0.0.1:9//", backend="cache+memory://", set_as_current=False)
    async with AsyncCelery(app, task_id_key=KEY, observer=witness) as client:
        members = [app.signature("add", args=(n, n), queue=spare_queue) for n in range(3)]
        with pytest.raises(PublishError):
            await client.submit(group(members))
        # From now on it is known.
        with pytest.raises(PublishError):
            await client.submit(group(members))
    errors = witness.ends.pop(("add", spare_queue, PublishOutcome.ERROR))
    assert errors in (2, 4)  # the first may have waited for the first attempt to connect
    assert not witness.ends


async def test_a_workflow_that_cannot_be_encoded_is_one_error(
    make_celery: CeleryFactory, witness: Witness, spare_queue: str
) -> None:
    app = make_celery()
    async with AsyncCelery(app, task_id_key=KEY, observer=witness) as client:
        members = [app.signature("add", args=(n, n), queue=spare_queue) for n in (1, 2, object(), object())]
        with pytest.raises(PayloadError):
            await client.submit(group(members))
    assert witness.ends == {("add", spare_queue, PublishOutcome.ERROR): 1}


class Broken(Observer):
    """Raises whenever it is told anything about sending."""

    def published(self, *_: object) -> None:
        raise RuntimeError("a broken observer")

    def connected(self, *, again: bool) -> None:
        raise RuntimeError("a broken observer")

    def disconnected(self) -> None:
        raise RuntimeError("a broken observer")


async def test_a_broken_observer_costs_no_message_and_no_connection(
    make_celery: CeleryFactory,
    broker_proxy: Proxy,
    spare_queue: str,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    app = make_celery(broker_port=broker_proxy.port)
    async with AsyncCelery(app, task_id_key=KEY, observer=Broken()) as client:
        await client.send_task("add", (1, 2), queue=spare_queue)
        await broker_proxy.refuse()
        with pytest.raises(PublishError):
            while True:
                await client.send_task("add", (1, 2), queue=spare_queue)
        broker_proxy.open_again()
        await broker_proxy.open()

        async def sent() -> bool:
            try:
                await client.send_task("add", (1, 2), queue=spare_queue)
            except PublishError:
                return False
            return True

        await eventually(sent)
    told = [record for record in caplog.records if record.name == "async_celery.observation"]
    assert [record.levelno for record in told] == [logging.ERROR]


async def test_other_brokers_and_backends_tell_the_same(witness: Witness) -> None:
    app = Celery(broker="memory://", backend="cache+memory://", set_as_current=False)
    async with AsyncCelery(app, task_id_key=KEY, observer=witness) as client:
        await client.send_task("add", (1, 2), queue="sums")
        with pytest.raises(PayloadError):
            await client.send_task("add", (object(),), queue="sums")
        await client.submit(group(app.signature("add", args=(n, n), queue="sums") for n in range(3)))
    assert witness.ends == {
        ("add", "sums", PublishOutcome.OK): 4,
        ("add", "sums", PublishOutcome.ERROR): 1,
    }
