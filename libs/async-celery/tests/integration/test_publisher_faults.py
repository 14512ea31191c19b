"""The publisher under faults, counted with the oracle: what was confirmed is in its queue, whatever broke.

How it works: every message has an id of its own. The queue is read in the end: `lost` are ids that were
confirmed and are not there, `copies` how often each is. Row names (P2, …) are those of the fault matrix in the
design.

What belongs here: losing, refusing, hanging and alarmed brokers. What a healthy one gets is in
`test_publisher.py`.
"""

import asyncio
import contextlib
import gc
import math
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from amqp import Channel
from celery import Celery
from kombu import Connection, Exchange, Queue

from async_celery import message as encoding
from async_celery.backoff import Backoff
from async_celery.errors import (
    Blocked,
    Nacked,
    PayloadError,
    PublishError,
    PublishTimeout,
    TransportError,
    Unroutable,
)
from async_celery.publisher import AmqpBroker
from async_celery.recording import CeleryRecorder
from async_celery.session import Letter
from async_celery.types import Publication, TaskMessage

from .conftest import Address, BrokerFactory, Proxy
from .faults import scaled
from .rabbitmq_server import MAX_MESSAGE_BYTES, RabbitServer
from .saboteur import Saboteur

TIMEOUT = 0.5  # s, where it is to be reached
GRACE = 0.4  # s, what a loaded machine adds
AT_ONCE = {"reconnect": Backoff(first=0.001, limit=0.05)}


def task(queue: str, task_id: str | None = None, *args: Any, **fields: Any) -> TaskMessage:
    return TaskMessage(task_id or str(uuid4()), "add", args, {}, queue, **fields)


def drain(channel: Channel, queue: str) -> Counter[str]:
    """Take everything out of a queue; return how often each task id was there."""
    copies: Counter[str] = Counter()
    declared: Any = channel.queue_declare(queue, passive=True)
    tag = channel.basic_consume(
        queue, no_ack=True, callback=lambda message: copies.update([message.properties["correlation_id"]])
    )
    while sum(copies.values()) < declared.message_count:
        connection: Any = channel.connection
        connection.drain_events(timeout=10)
    channel.basic_cancel(tag)
    return copies


class Oracle:
    """Sends, and writes down what the sender was told."""

    def __init__(self, publisher: AmqpBroker, queue: str) -> None:
        self._publisher = publisher
        self._queue = queue
        self.confirmed: set[str] = set()
        self.failed: dict[str, Exception] = {}

    async def send(self) -> None:
        message = task(self._queue)
        try:
            await self._publisher.publish(message)
        except PublishError as exc:
            assert exc.task_id == message.task_id
            self.failed[message.task_id] = exc
            await asyncio.sleep(0)  # what is refused at once would let nobody else run, the reconnecting included
        else:
            self.confirmed.add(message.task_id)

    async def has_confirmed(self, count: int) -> None:
        """Wait until so many messages are confirmed."""
        async with asyncio.timeout(10):
            while len(self.confirmed) < count:  # noqa: ASYNC110 (short, and the senders need no event)
                await asyncio.sleep(0.001)

    @contextlib.asynccontextmanager
    async def load(self, senders: int) -> AsyncIterator[None]:
        """Send from so many tasks at once, as fast as it goes."""
        stop = asyncio.Event()

        async def sender() -> None:
            while not stop.is_set():
                await self.send()

        async with asyncio.TaskGroup() as group:
            for _ in range(senders):
                group.create_task(sender())
            try:
                yield
            finally:
                stop.set()

    def check(self, copies: Counter[str], *, faults: int) -> int:
        """Assert that nothing is lost and nothing there too often; return the number of duplicates."""
        lost = self.confirmed - copies.keys()
        unknown = copies.keys() - self.confirmed - self.failed.keys()
        duplicated = sum(copies.values()) - len(copies)
        print(f"{len(self.confirmed)} confirmed, {len(self.failed)} failed, {faults} faults: ", end="")
        print(f"lost {len(lost)}, duplicated {duplicated}, unexpected {len(unknown)}")
        assert not lost
        assert not unknown
        assert max(copies.values(), default=0) <= 1 + faults
        return duplicated


@pytest.fixture
async def saboteur(broker: Address) -> AsyncIterator[Saboteur]:
    proxy = Saboteur(broker.host, broker.port)
    await proxy.open()
    yield proxy
    await proxy.close()


@contextlib.asynccontextmanager
async def ends_within(seconds: float) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    yield
    assert loop.time() - start < seconds


async def confirmed_soon(publisher: AmqpBroker, message: Callable[[], TaskMessage], within: float) -> None:
    """Send until a send succeeds."""
    async with asyncio.timeout(within):
        while True:
            try:
                await publisher.publish(message())
            except PublishError:
                await asyncio.sleep(0.02)
            else:
                return


@pytest.mark.parametrize(
    ("senders", "cuts"), [(1, scaled(120, 400)), (20, scaled(100, 400))], ids=["one sender", "many senders"]
)
async def test_p2_connections_cut_at_any_byte_lose_nothing(
    make_broker: BrokerFactory,
    broker: Address,
    saboteur: Saboteur,
    spare_queue: str,
    channel: Channel,
    senders: int,
    cuts: int,
) -> None:
    publisher = make_broker(broker.url(saboteur.port), options=AT_ONCE)
    oracle = Oracle(publisher, spare_queue)
    await oracle.send()
    async with oracle.load(senders):
        for number in range(cuts):
            # Towards the client: between a publish and its confirm.
            to_broker = number % 3 == 0
            size = random.randrange(2000 * senders) if to_broker else random.randrange(30 * senders)
            before = len(oracle.confirmed)
            await saboteur.cut_after(size, to_broker=to_broker)
            await oracle.has_confirmed(before + 1)
    assert saboteur.cuts == cuts
    assert not oracle.failed
    duplicated = oracle.check(drain(channel, spare_queue), faults=cuts)
    # What a cut can duplicate is what was unconfirmed.
    assert duplicated <= cuts * senders


async def test_p3_all_connections_closed_by_the_broker(
    make_broker: BrokerFactory, rabbit_server: RabbitServer
) -> None:
    queue = f"p3-{uuid4()}"
    publisher = make_broker(rabbit_server.url())
    oracle = Oracle(publisher, queue)
    async with oracle.load(20):
        for _ in range(scaled(2, 10)):
            await asyncio.to_thread(rabbit_server.control, "close_all_connections", "a test")
            before = len(oracle.confirmed)
            async with asyncio.timeout(5):
                await oracle.has_confirmed(before + 100)
    assert not oracle.failed
    with Connection(rabbit_server.url()) as connection:
        channel: Any = connection.default_channel
        oracle.check(drain(channel, queue), faults=scaled(2, 10))
        channel.queue_delete(queue)


async def test_p4_a_deleted_queue_fails_its_own_messages_only(
    make_broker: BrokerFactory, spare_queue: str, queue_of_another: str, channel: Channel
) -> None:
    publisher = make_broker()
    for queue in (spare_queue, queue_of_another):
        await publisher.publish(task(queue))
    channel.queue_delete(spare_queue)
    messages = [task(spare_queue if number % 2 else queue_of_another) for number in range(200)]
    outcomes = await asyncio.gather(*map(publisher.publish, messages), return_exceptions=True)
    for message, outcome in zip(messages, outcomes, strict=True):
        if message.queue == spare_queue:
            assert isinstance(outcome, Unroutable)
            assert outcome.task_id == message.task_id
            assert spare_queue in str(outcome)
        else:
            assert outcome is None
    # Declared anew.
    again = task(spare_queue)
    await publisher.publish(again)
    assert drain(channel, spare_queue) == {again.task_id: 1}
    assert len(drain(channel, queue_of_another)) == 101


@pytest.fixture
def queue_of_another(channel: Channel) -> Any:
    name = f"nobody-either-{uuid4()}"
    yield name
    channel.queue_delete(name)


async def test_p5_a_full_queue_refuses_and_keeps_what_it_has(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    arguments = {"x-max-length": 10, "x-overflow": "reject-publish"}
    full = Queue(spare_queue, Exchange(spare_queue), routing_key=spare_queue, queue_arguments=arguments)
    publisher = make_broker(task_queues=[full])
    first = [task(spare_queue) for _ in range(10)]
    for message in first:
        await publisher.publish(message)
    refused = [task(spare_queue) for _ in range(100)]
    outcomes = await asyncio.gather(*map(publisher.publish, refused), return_exceptions=True)
    for message, outcome in zip(refused, outcomes, strict=True):
        assert isinstance(outcome, Nacked)
        assert outcome.task_id == message.task_id
    assert drain(channel, spare_queue) == {message.task_id: 1 for message in first}
    await publisher.publish(task(spare_queue))
    channel.exchange_delete(spare_queue)


@pytest.mark.parametrize(
    ("alarm", "end"),
    [
        (["set_vm_memory_high_watermark", "0"], ["set_vm_memory_high_watermark", "0.8"]),
        (["set_disk_free_limit", "100000GB"], ["set_disk_free_limit", "10MB"]),
    ],
    ids=["p6 memory", "p7 disk"],
)
async def test_an_alarmed_broker_blocks(
    make_broker: BrokerFactory, rabbit_server: RabbitServer, alarm: list[str], end: list[str]
) -> None:
    queue = f"alarm-{uuid4()}"
    publisher = make_broker(rabbit_server.url(), timeout=TIMEOUT)
    await confirmed_soon(publisher, lambda: task(queue), within=10)
    await asyncio.to_thread(rabbit_server.control, *alarm)
    try:
        # The broker says so to whoever has published since.
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(PublishTimeout):
                    try:
                        await publisher.publish(task(queue))
                    except Blocked as exc:
                        blocked = exc
                        break
        assert "alarm" in str(blocked) or "low on" in str(blocked)
        # Nothing waits, nothing piles up: refused before anything else happens.
        for _ in range(1000):
            with pytest.raises(Blocked):
                publisher.publish(task(queue)).send(None)
        with pytest.raises(Blocked):
            await publisher.ping()
    finally:
        await asyncio.to_thread(rabbit_server.control, *end)
    await confirmed_soon(publisher, lambda: task(queue), within=10)


async def test_p8_the_broker_never_sees_what_is_too_large(
    make_broker: BrokerFactory, broker: Address, saboteur: Saboteur, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker(broker.url(saboteur.port), options={"max_message_bytes": 100_000})
    with pytest.raises(PayloadError, match="100000 are allowed"):
        await publisher.publish(task(spare_queue, None, "x" * 100_000))
    with pytest.raises(PayloadError, match="headers"):
        await publisher.publish(task(spare_queue, headers={"long": "x" * 200_000}))
    with pytest.raises(PayloadError):
        await publisher.publish_all(
            [Publication(task_id="x", body="x" * 100_001, options={"serializer": "json"})]
        )
    await publisher.publish(task(spare_queue, "small"))
    assert drain(channel, spare_queue) == {"small": 1}
    assert saboteur.connections == 1


async def test_p9_too_large_for_the_broker_hurts_nobody_else(
    make_broker: BrokerFactory, rabbit_server: RabbitServer
) -> None:
    """The broker closes the channel, and does not say whose fault it was."""
    publisher = make_broker(rabbit_server.url(), timeout=10)
    queue = f"p9-{uuid4()}"
    await publisher.publish(task(queue))
    messages = [task(queue) for _ in range(100)]
    guilty = {20, 70}
    for number in guilty:
        messages[number] = task(queue, None, "x" * MAX_MESSAGE_BYTES)
    outcomes = await asyncio.gather(*map(publisher.publish, messages), return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if number in guilty:
            assert isinstance(outcome, PublishError)
            assert "larger than" in str(outcome)
        else:
            assert outcome is None
    # Bodies of many frames, and headers that need more than the one there may be.
    await publisher.publish(task(queue, "long", "x" * (MAX_MESSAGE_BYTES // 2)))
    with pytest.raises(PayloadError, match="headers"):
        await publisher.publish(task(queue, headers={"long": "x" * 10_000}))
    with Connection(rabbit_server.url()) as connection:
        channel: Any = connection.default_channel
        copies = drain(channel, queue)
        good = {message.task_id for number, message in enumerate(messages) if number not in guilty}
        assert good | {"long"} <= copies.keys()
        assert not copies.keys() & {messages[number].task_id for number in guilty}


@pytest.mark.parametrize("headers", [{}, {"CC": "no list"}], ids=["404 names the exchange", "406 names nothing"])
async def test_p9_one_bad_publish_fails_alone(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel, headers: dict[str, Any]
) -> None:
    publisher = make_broker()
    await publisher.publish(task(spare_queue))
    exchange = "" if headers else f"missing-{uuid4()}"
    bad = Publication(
        task_id="bad",
        body=[[], {}, {}],
        options={"exchange": exchange, "routing_key": spare_queue, "correlation_id": "bad", "headers": headers},
    )
    messages = [task(spare_queue) for _ in range(99)]
    sends: list[Any] = [publisher.publish(message) for message in messages]
    sends.insert(40, publisher.publish_all([bad]))
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    error = outcomes.pop(40)
    assert isinstance(error, PublishError)
    assert error.task_id == "bad"
    assert "NOT_FOUND" in str(error) or "unacceptable" in str(error).lower() or "PRECONDITION" in str(error)
    assert outcomes == [None] * 99
    copies = drain(channel, spare_queue)
    assert {message.task_id for message in messages} <= copies.keys()
    assert "bad" not in copies
    assert max(copies.values()) <= 2


async def test_a_message_that_breaks_the_connection_fails_alone(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An infinite number in a header, for one; we refuse that, but there may be others."""
    publisher = make_broker(options=AT_ONCE)
    poison = task(spare_queue, "poison", headers={"number": math.inf})
    with pytest.raises(PayloadError, match=r"'number'.*inf"):
        await publisher.publish(poison)
    monkeypatch.setattr(encoding, "_check_table", lambda table: None)
    messages = [task(spare_queue) for _ in range(100)]
    sends = [publisher.publish(message) for message in messages]
    sends.insert(50, publisher.publish(poison))
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    error = outcomes.pop(50)
    assert isinstance(error, PublishError)
    assert "refuses the message" in str(error)
    assert outcomes == [None] * 100
    copies = drain(channel, spare_queue)
    assert copies.keys() == {message.task_id for message in messages}
    assert max(copies.values()) <= 3


async def test_p9_a_refused_declaration_hurts_its_sender_only(
    make_broker: BrokerFactory, spare_queue: str, queue_of_another: str, channel: Channel
) -> None:
    channel.queue_declare(spare_queue, durable=False, auto_delete=False)
    publisher = make_broker()
    outcomes = await asyncio.gather(
        *(publisher.publish(task(queue)) for queue in [spare_queue, queue_of_another] * 20),
        publisher.ping(),
        return_exceptions=True,
    )
    refused, good = outcomes[:-1:2], outcomes[1:-1:2]
    assert all(isinstance(error, PublishError) and "PRECONDITION_FAILED" in str(error) for error in refused)
    assert [*good, outcomes[-1]] == [None] * 21
    await publisher.ping()


async def test_p10_a_silent_connection_is_given_up_and_replaced(
    make_broker: BrokerFactory, broker: Address, broker_proxy: Proxy, spare_queue: str, channel: Channel
) -> None:
    url = broker.url(broker_proxy.port)
    publisher = make_broker(url, timeout=TIMEOUT, broker_heartbeat=1, broker_connection_timeout=1)
    await publisher.publish(task(spare_queue))
    broker_proxy.swallow()
    async with ends_within(TIMEOUT + GRACE):
        with pytest.raises(PublishTimeout, match="may or may not"):
            await publisher.publish(task(spare_queue, "swallowed"))
    with pytest.raises(PublishError):
        await publisher.ping()
    # Two missed heartbeats, then attempts that fail: from then on nobody waits.
    async with asyncio.timeout(10):
        while True:
            try:
                publisher.publish(task(spare_queue, "later")).send(None)
            except PublishError as exc:
                assert "not reachable" in str(exc)
                break
            await asyncio.sleep(0.05)
    broker_proxy.open_again()
    await confirmed_soon(publisher, lambda: task(spare_queue, "again"), within=10)
    assert drain(channel, spare_queue)["again"] == 1


async def test_b11_a_slow_broker_is_used_in_parallel(
    make_broker: BrokerFactory, broker: Address, saboteur: Saboteur, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker(broker.url(saboteur.port), timeout=20, options={"max_in_flight": 100})
    await publisher.publish(task(spare_queue))
    saboteur.delay = 0.1
    start = asyncio.get_running_loop().time()
    await asyncio.gather(*(publisher.publish(task(spare_queue)) for _ in range(300)))
    # Three windows, each a round trip of 0.2 s; one after the other they would take 60 s.
    assert asyncio.get_running_loop().time() - start < 10
    assert len(drain(channel, spare_queue)) == 301


async def test_p11_a_burst_at_a_broker_that_is_down_fails_at_once(
    make_broker: BrokerFactory, broker: Address, broker_proxy: Proxy, spare_queue: str
) -> None:
    publisher = make_broker(broker.url(broker_proxy.port), options={"max_in_flight": 100})
    await publisher.publish(task(spare_queue))
    await broker_proxy.refuse()
    sends = [asyncio.create_task(publisher.publish(task(spare_queue))) for _ in range(5000)]
    # As soon as it is known that the broker is down, but for those that may have got there.
    failed, waiting = await asyncio.wait(sends, timeout=2)
    assert len(waiting) <= 100
    assert Counter(type(send.exception()) for send in failed)[Blocked] == 5000 - 4100
    assert all(isinstance(send.exception(), PublishError) for send in failed)
    # From now on nothing is even begun.
    for _ in range(5000):
        with pytest.raises(PublishError, match=r"not reachable: .* next attempt is in \d\.\d s"):
            publisher.publish(task(spare_queue)).send(None)
    with pytest.raises(PublishError, match="not reachable"):
        await publisher.ping()
    await broker_proxy.open()
    await confirmed_soon(publisher, lambda: task(spare_queue), within=10)
    await asyncio.gather(*waiting)


async def test_p11_what_waits_for_a_broker_that_hangs_is_bounded(
    make_broker: BrokerFactory, broker: Address, broker_proxy: Proxy, spare_queue: str
) -> None:
    options = {"max_in_flight": 100, "max_waiting": 200}
    publisher = make_broker(broker.url(broker_proxy.port), timeout=TIMEOUT, options=options)
    await confirmed_soon(publisher, lambda: task(spare_queue), within=10)
    broker_proxy.swallow()
    sends = (publisher.publish(task(spare_queue)) for _ in range(1000))
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    texts = Counter(f"{type(outcome).__name__}: {str(outcome).partition(' ')[2]:.20}" for outcome in outcomes)
    assert [type(outcome) for outcome in outcomes[:100]] == [PublishTimeout] * 100
    assert [type(outcome) for outcome in outcomes[100:]] == [Blocked] * 900, texts
    assert "nothing was sent" in str(outcomes[299])
    assert "wait for the broker already" in str(outcomes[300])
    broker_proxy.open_again()
    await confirmed_soon(publisher, lambda: task(spare_queue), within=10)


_KILLED = """
import asyncio, sys, uuid
from celery import Celery
from async_celery.publisher import AmqpBroker
from async_celery.recording import CeleryRecorder
from async_celery.session import Letter
from async_celery.recording import CeleryRecorder
from async_celery.session import Letter
from async_celery.types import TaskMessage

async def main(url, queue):
    app = Celery(broker=url, set_as_current=False)
    recorder = CeleryRecorder(app, new_child_id=lambda: "")
    publisher = AmqpBroker(app, recorder=recorder, publish_timeout=5)

    async def send():
        while True:
            message = TaskMessage(str(uuid.uuid4()), "add", (1,), {}, queue)
            await publisher.publish(message)
            sys.stdout.write(message.task_id + "\\n")
            sys.stdout.flush()

    await asyncio.gather(*(send() for _ in range(20)))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_p12_what_a_killed_process_was_told_is_confirmed_is_there(
    broker: Address, spare_queue: str, channel: Channel, tmp_path: Path
) -> None:
    output = tmp_path / "told"
    for round_ in range(scaled(1, 10)):
        with output.open("wb") as told:
            command = [sys.executable, "-c", _KILLED, broker.url(), spare_queue]
            process = subprocess.Popen(command, stdout=told)  # noqa: ASYNC220 (it returns at once)
        try:
            async with asyncio.timeout(30):
                while output.stat().st_size < 37 * (200 + random.randrange(200)):
                    assert process.poll() is None
                    await asyncio.sleep(0.001)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        ids = [line for line in output.read_text().split("\n")[:-1] if line]
        copies = drain(channel, spare_queue)
        print(f"round {round_}: {len(ids)} told, {len(copies)} there")
        assert ids
        assert set(ids) <= copies.keys()


async def test_ten_thousand_aborted_sends_leave_nothing(
    make_broker: BrokerFactory,
    broker: Address,
    broker_proxy: Proxy,
    spare_queue: str,
    channel: Channel,
) -> None:
    publisher = make_broker(
        broker.url(broker_proxy.port), timeout=20, options={"max_in_flight": 100, "max_waiting": 1000}
    )
    await publisher.publish(task(spare_queue))

    async def abort(count: int) -> None:
        for number in range(count // 500):
            sends = [asyncio.create_task(publisher.publish(task(spare_queue))) for _ in range(500)]
            for _ in range(1 + number % 2):  # cancelled before they are in line, and when they are
                await asyncio.sleep(0)
            for send in sends:
                send.cancel()
            await asyncio.gather(*sends, return_exceptions=True)
            assert all(send.cancelled() for send in sends)

    def letters() -> int:
        gc.collect()  # garbage is not kept: when it is looked for depends on all that ran before
        return sum(isinstance(thing, Letter) for thing in gc.get_objects())

    tasks = asyncio.all_tasks()
    broker_proxy.swallow()
    await abort(10_000)
    assert asyncio.all_tasks() == tasks
    # A window of what the broker has not confirmed, and a line that is cleared when it gets long.
    assert letters() <= 100 + 2 * 1100
    broker_proxy.open_again()
    await publisher.publish(task(spare_queue, "after"))
    copies = drain(channel, spare_queue)
    assert copies["after"] == 1
    # A window's worth had been written.
    assert len(copies) <= 2 + 100
    assert asyncio.all_tasks() == tasks
    assert letters() == 0


async def test_wrong_credentials_are_named_and_not_tried_all_the_time(
    make_broker: BrokerFactory, broker: Address, saboteur: Saboteur, spare_queue: str
) -> None:
    url = broker.url(saboteur.port)
    login, at, place = url.rpartition("@")
    wrong = f"{login.rpartition(':')[0]}:a-wrong-secret{at}{place}"
    publisher = make_broker(wrong)
    with pytest.raises(PublishError, match=r"refused the login.*check user, password") as caught:
        await publisher.publish(task(spare_queue))
    assert "a-wrong-secret" not in str(caught.value)
    for _ in range(100):
        with pytest.raises(PublishError, match="refused the login"):
            await publisher.publish(task(spare_queue))
        await asyncio.sleep(0.01)
    assert saboteur.connections == 1
    unknown = make_broker(f"{url.rpartition('/')[0]}/no-such-vhost")
    with pytest.raises(PublishError, match=r"refused the login.*no-such-vhost"):
        await unknown.ping()


async def test_a_host_that_does_not_exist_is_a_typed_error(make_broker: BrokerFactory, spare_queue: str) -> None:
    for host in ("no-such-host.invalid", "x" * 300):
        publisher = make_broker(f"amqp://{host}:1/")
        with pytest.raises(PublishError, match="not reachable"):
            await publisher.publish(task(spare_queue))


@pytest.mark.parametrize("strategy", ["round-robin", "shuffle"])
async def test_the_next_server_is_tried(
    make_broker: BrokerFactory, broker: Address, broker_proxy: Proxy, spare_queue: str, strategy: str
) -> None:
    other = Proxy(broker.host, broker.port)
    await other.open()
    urls = [broker.url(1), broker.url(broker_proxy.port), broker.url(other.port)]
    publisher = make_broker(";".join(urls), broker_failover_strategy=strategy, options=AT_ONCE)
    await publisher.publish(task(spare_queue))
    for down, up in ((broker_proxy, other), (other, broker_proxy)):
        await up.open()
        await down.refuse()
        await publisher.publish(task(spare_queue))
    await other.close()


async def test_closing_ends_what_is_under_way_and_refuses_what_comes(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker()
    sends = [asyncio.create_task(publisher.publish(task(spare_queue))) for _ in range(500)]
    await asyncio.sleep(0)
    await asyncio.gather(publisher.aclose(), publisher.aclose())
    assert await asyncio.gather(*sends) == [None] * 500
    assert len(drain(channel, spare_queue)) == 500
    calls: list[Callable[[], Awaitable[None]]] = [
        lambda: publisher.publish(task(spare_queue)),
        lambda: publisher.publish_all([]),
        lambda: publisher.revoke(["x"], terminate=False),
        publisher.ping,
    ]
    for call in calls:
        with pytest.raises(TransportError, match="closed"):
            await call()
    await publisher.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("state", ["unused", "down", "hanging"])
async def test_closing_takes_no_longer_than_the_deadlines(
    make_broker: BrokerFactory, broker: Address, broker_proxy: Proxy, spare_queue: str, state: str
) -> None:
    publisher = make_broker(broker.url(broker_proxy.port), timeout=TIMEOUT)
    if state == "down":
        await broker_proxy.refuse()
        with pytest.raises(PublishError):
            await publisher.publish(task(spare_queue))
    if state == "hanging":
        await confirmed_soon(publisher, lambda: task(spare_queue), within=10)
        broker_proxy.swallow()
        sending = asyncio.create_task(publisher.publish(task(spare_queue)))
        await asyncio.sleep(0)
    async with ends_within(TIMEOUT + GRACE):
        await publisher.aclose()
    if state == "hanging":
        with pytest.raises(PublishTimeout):
            await sending


async def test_tls_is_checked(make_broker: BrokerFactory, rabbit_server: RabbitServer) -> None:
    queue = f"tls-{uuid4()}"
    url = rabbit_server.url(rabbit_server.tls_port)
    good = make_broker(
        url.replace("amqp:", "amqps:"), broker_use_ssl={"ca_certs": str(rabbit_server.certificate)}
    )
    await good.publish(task(queue, None, "x" * 500_000))
    bad = make_broker(url, broker_use_ssl=True)
    with pytest.raises(PublishError, match=r"not reachable.*certificate"):
        await bad.publish(task(queue))
    plain = make_broker(url, broker_connection_timeout=0.5)
    with pytest.raises(PublishError, match="not reachable"):
        await plain.ping()
    with pytest.raises(ValueError, match="unknown"):
        make_broker(url, broker_use_ssl={"ca_cert": "a typo"})
    with pytest.raises(ValueError, match="cannot be used"):
        make_broker(url, broker_use_ssl={"ca_certs": "/no/such/file"})


async def test_a_server_that_speaks_no_amqp_is_a_typed_error(make_broker: BrokerFactory) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        publisher = make_broker(f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        with pytest.raises(PublishError, match="not reachable"):
            await publisher.ping()


def test_another_loop_is_refused(broker: Address) -> None:
    app = Celery(broker=broker.url(), set_as_current=False)
    publisher = AmqpBroker(app, recorder=CeleryRecorder(app, new_child_id=lambda: ""), publish_timeout=5)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as first:
        first.run(publisher.ping())
        with (
            asyncio.Runner(loop_factory=asyncio.new_event_loop) as second,
            pytest.raises(RuntimeError, match="event loop"),
        ):
            second.run(publisher.ping())
        first.run(publisher.aclose())
