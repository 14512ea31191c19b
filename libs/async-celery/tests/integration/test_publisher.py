"""What the publisher puts into a real queue: Celery's own message, header for header, and everything declared for
it.

What belongs here: a healthy broker. Broken ones are in `test_publisher_faults.py`.
"""

import asyncio
import json
import time
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from amqp import Channel, Message
from celery import Celery, signals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu import Exchange, Queue

from async_celery import amqp
from async_celery.errors import Blocked, PayloadError, PublishError
from async_celery.publisher import AmqpBroker
from async_celery.recording import CeleryRecorder
from async_celery.types import Publication, TaskMessage

from .conftest import Address, BrokerFactory
from .faults import scaled

DIFFERENCES = {
    "message_id": "only ours, the task's id: by it a returned message is recognised",
    "reply_to": "an id that Celery makes for each app, and ours is another app",
    "expiration": "Celery's always when there is `expires`; ours when it is asked for, see `recording.py`",
    "x-published-at": "only ours: the time of sending",
    "priority": "`apply_async` of a registered task sends none, `send_task` 0; to the broker it is the same",
    "expires": "a time from now, and now is later",
    "ignore_result": "`apply_async` of a registered task repeats the task's option, `send_task` leaves it to it",
}
"""All in which our messages may differ from those of Celery's own producer, and why."""


def take(channel: Channel, queue: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return the properties, headers and body of the next message, as a worker's connection reads them."""
    message: Any = channel.basic_get(queue, no_ack=True)
    assert message is not None
    properties = dict(message.properties)
    headers = properties.pop("application_headers")
    body = message.body
    return properties, headers, body.encode() if isinstance(body, str) else bytes(body)


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    assert set(names) <= DIFFERENCES.keys()
    return {name: value for name, value in values.items() if name not in names}


def assert_same(ours: Any, theirs: Any, *, differing: tuple[str, ...] = ()) -> None:
    assert without(ours[0], "message_id", "reply_to", *differing) == without(theirs[0], "reply_to", *differing)
    assert ours[0]["message_id"] == ours[1]["id"]
    assert abs(time.time() - ours[1]["x-published-at"]) < 60
    times = ("expires", "x-published-at")
    assert without(ours[1], *times, *differing) == without(theirs[1], *times, *differing)
    apart = datetime.fromisoformat(theirs[1]["expires"]) - datetime.fromisoformat(ours[1]["expires"])
    assert abs(apart) < timedelta(seconds=5)
    assert ours[2] == theirs[2]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
VALUES = st.recursive(
    SCALARS | st.text(min_size=900, max_size=1100),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
HEADERS = st.dictionaries(
    st.text("abcdefg_", min_size=3, max_size=20),
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=50),
    max_size=3,
)


def test_messages_are_those_of_celerys_own_producer(broker: Address, spare_queue: str, channel: Channel) -> None:
    app = Celery(broker=broker.url(), set_as_current=False)
    producer: Any = app.amqp.Producer(channel)  # type: ignore[arg-type]  # kombu's own channel
    recorder = CeleryRecorder(app, new_child_id=lambda: "")
    publisher = AmqpBroker(app, recorder=recorder, publish_timeout=10)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:

        @settings(max_examples=scaled(80, 2000), deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            args=st.lists(VALUES, max_size=4),
            kwargs=st.dictionaries(st.text(), VALUES, max_size=4),
            expires=st.floats(0.5, 1e6),
            expiration=st.booleans(),
            priority=st.none() | st.integers(0, 255),
            headers=HEADERS,
            serializer=st.sampled_from(["json", "json", "json", "pickle"]),
        )
        def compare(**drawn: Any) -> None:
            message = TaskMessage(task_id=str(uuid4()), name="a.täsk", queue=spare_queue, **drawn)
            runner.run(publisher.publish(message))
            ours = take(channel, spare_queue)
            options = {name: value for name, value in drawn.items() if name != "expiration"}
            options["args"] = tuple(options["args"])
            if options["priority"] is None:
                del options["priority"]  # None would be sent as such
            app.send_task(message.name, task_id=message.task_id, queue=spare_queue, producer=producer, **options)
            theirs = take(channel, spare_queue)
            assert_same(ours, theirs, differing=() if message.expiration else ("expiration",))

        try:
            compare()
        finally:
            runner.run(publisher.aclose())


async def test_messages_are_those_of_a_registered_task(
    make_broker: BrokerFactory, broker: Address, spare_queue: str, channel: Channel
) -> None:
    app = Celery(broker=broker.url(), set_as_current=False)

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    message = TaskMessage(str(uuid4()), "add", (1,), {"y": 2}, spare_queue)
    await make_broker().publish(message)
    ours = take(channel, spare_queue)
    producer: Any = app.amqp.Producer(channel)  # type: ignore[arg-type]  # kombu's own channel
    add.apply_async((1,), {"y": 2}, task_id=message.task_id, queue=spare_queue, expires=3600, producer=producer)
    assert_same(ours, take(channel, spare_queue), differing=("expiration", "ignore_result", "priority"))


async def test_messages_are_persistent_and_carry_their_id(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    message = TaskMessage("the-id", "add", (1,), {}, spare_queue, expires=60, expiration=True, priority=7)
    await make_broker().publish(message)
    properties, headers, body = take(channel, spare_queue)
    assert properties["delivery_mode"] == 2
    assert (
        properties["message_id"]
        == properties["correlation_id"]
        == headers["id"]
        == headers["root_id"]
        == "the-id"
    )
    assert properties["expiration"] == "60000"
    assert properties["priority"] == 7
    assert json.loads(body)[:2] == [[1], {}]


@pytest.mark.parametrize(
    "conf",
    [
        {"task_protocol": 1},
        {"task_compression": "gzip"},
        {"task_routes": [lambda name, args, kwargs, options, task=None, **kw: {"priority": args[0]}]},
        {"task_repr_maxlevels": 1},
        {"timezone": "Asia/Tokyo"},
        {"task_default_delivery_mode": 1},
    ],
    ids=str,
)
async def test_the_apps_settings_count(
    make_broker: BrokerFactory, broker: Address, spare_queue: str, channel: Channel, conf: dict[str, Any]
) -> None:
    app = Celery(broker=broker.url(), set_as_current=False)
    app.conf.update(conf)
    producer: Any = app.amqp.Producer(channel)  # type: ignore[arg-type]  # kombu's own channel
    args = (5, {"a": [1, {"b": 2}]}, Decimal("1.5"), UUID(int=1))
    message = TaskMessage(str(uuid4()), "add", args, {}, spare_queue, expires=60, expiration=True)
    await make_broker(**conf).publish(message)
    ours = take(channel, spare_queue)
    app.send_task("add", args, task_id=message.task_id, queue=spare_queue, expires=60, producer=producer)
    theirs = take(channel, spare_queue)
    if "task_protocol" in conf:
        assert without(ours[0], "message_id", "reply_to") == without(theirs[0], "reply_to")
        assert json.loads(ours[2]).keys() == json.loads(theirs[2]).keys()
    else:
        assert_same(ours, theirs)


async def test_who_listens_to_celerys_signals_may_change_a_message(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker()
    await publisher.publish(TaskMessage("before", "add", (), {}, spare_queue))

    def trace(headers: dict[str, Any], **_: Any) -> None:
        headers["traceparent"] = "00-1"

    signals.before_task_publish.connect(trace)
    try:
        await publisher.publish(TaskMessage("during", "add", (), {}, spare_queue))
    finally:
        signals.before_task_publish.disconnect(trace)
    await publisher.publish(TaskMessage("after", "add", (), {}, spare_queue))
    traces = [take(channel, spare_queue)[1].get("traceparent") for _ in range(3)]
    assert traces == [None, "00-1", None]


async def test_each_message_is_encoded_in_the_context_of_its_sender(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker()
    request = ContextVar("request", default="none")

    def trace(headers: dict[str, Any], **_: Any) -> None:
        headers["request"] = request.get()

    async def send(name: str) -> None:
        request.set(name)
        await publisher.publish(TaskMessage(name, "add", (), {}, spare_queue))

    signals.before_task_publish.connect(trace)
    try:
        await asyncio.gather(*(send(name) for name in "abc"))
    finally:
        signals.before_task_publish.disconnect(trace)
    sent = [take(channel, spare_queue)[1] for _ in "abc"]
    assert sorted((headers["id"], headers["request"]) for headers in sent) == [(name, name) for name in "abc"]


async def test_what_one_sender_does_wrong_is_told_to_nobody_else(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    class Broken:
        def __json__(self) -> str:
            raise RuntimeError("none of the errors that are foreseen")

    publisher = make_broker()
    arguments: list[Any] = [1, object(), 2, Broken(), 3]
    messages = [TaskMessage(str(n), "add", (value,), {}, spare_queue) for n, value in enumerate(arguments)]
    ends = await asyncio.gather(*map(publisher.publish, messages), return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), PayloadError, type(None), RuntimeError, type(None)]
    assert [take(channel, spare_queue)[1]["id"] for _ in range(3)] == ["0", "2", "4"]
    assert not publisher._open


async def test_what_happens_before_the_turn_ends_counts(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker()
    message = TaskMessage("id", "add", (), {}, spare_queue)
    await publisher.publish(message)
    session = publisher._session
    assert session is not None
    sending = asyncio.create_task(publisher.publish(message))
    await asyncio.sleep(0)
    session._connection.blocked = "an alarm"
    with pytest.raises(Blocked, match="an alarm"):
        await sending
    session._connection.blocked = None
    sending = asyncio.create_task(publisher.publish(message))
    await asyncio.sleep(0)
    publisher._session, publisher._down = None, amqp.ConnectionLost("it has gone")
    with pytest.raises(PublishError, match=r"not reachable: it has gone; nothing was sent"):
        await sending
    publisher._session, publisher._down = session, None
    await publisher.publish(message)
    assert [take(channel, spare_queue)[1]["id"] for _ in range(2)] == ["id", "id"]
    assert channel.basic_get(spare_queue) is None


async def test_each_message_has_all_of_its_time_however_long_others_were_sent_before(
    make_broker: BrokerFactory, spare_queue: str
) -> None:
    publisher, loop = make_broker(timeout=1), asyncio.get_running_loop()

    async def send_in_a_row() -> None:
        end = loop.time() + 2
        while loop.time() < end:
            await publisher.publish(TaskMessage("id", "add", (), {}, spare_queue))

    await asyncio.gather(send_in_a_row(), send_in_a_row())


async def test_who_gives_up_at_once_has_sent_nothing(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker()
    await publisher.publish(TaskMessage("before", "add", (), {}, spare_queue))
    given_up = publisher.publish(TaskMessage("given up", "add", (), {}, spare_queue))
    given_up.send(None)
    given_up.close()
    await publisher.publish(TaskMessage("after", "add", (), {}, spare_queue))
    assert [take(channel, spare_queue)[1]["id"] for _ in range(2)] == ["before", "after"]
    assert channel.basic_get(spare_queue) is None


async def test_a_callers_header_may_take_the_place_of_celerys(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker()
    await publisher.publish(
        TaskMessage("id", "add", (), {}, spare_queue, headers={"shadow": "other", "mine": [1]})
    )
    _, headers, _ = take(channel, spare_queue)
    assert headers["shadow"] == "other"
    assert headers["mine"] == [1]


async def test_queues_are_declared_as_the_app_describes_them(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    exchange = Exchange(f"{spare_queue}-exchange", type="topic")
    queue = Queue(
        spare_queue,
        exchange,
        routing_key="some.key",
        max_length=7,
        queue_arguments={"x-overflow": "reject-publish"},
    )
    publisher = make_broker(task_queues=[queue])
    await asyncio.gather(*(publisher.publish(TaskMessage(f"{n}", "add", (), {}, spare_queue)) for n in range(5)))
    # Would be refused if it were declared otherwise.
    channel.queue_declare(
        spare_queue,
        durable=True,
        auto_delete=False,
        arguments={"x-overflow": "reject-publish", "x-max-length": 7},
    )
    channel.exchange_declare(exchange.name, "topic", durable=True, auto_delete=False)
    for _ in range(5):
        take(channel, spare_queue)
    # It came through the exchange: the binding is there.
    channel.basic_publish(Message("x", application_headers={}), exchange=exchange.name, routing_key="some.key")
    take(channel, spare_queue)
    channel.exchange_delete(exchange.name)


async def test_priorities_reach_the_broker(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker(task_queues=[Queue(spare_queue, routing_key=spare_queue, max_priority=9)])
    for number in (1, 9, 5, None):
        await publisher.publish(TaskMessage(f"{number}", "add", (), {}, spare_queue, priority=number))
    assert [take(channel, spare_queue)[1]["id"] for _ in range(4)] == ["9", "5", "1", "None"]


async def test_a_countdown_is_kept_by_a_quorum_queue_without_any_worker(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    """The broker delays it, in queues that we declare; an unbound target would lose it in silence."""
    queue = Queue(
        spare_queue,
        Exchange(f"{spare_queue}-exchange", type="topic"),
        routing_key=spare_queue,
        queue_arguments={"x-queue-type": "quorum"},
    )
    publisher = make_broker(task_queues=[queue], timeout=20)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.gather(
        *(publisher.publish(TaskMessage(f"{n}", "add", (n,), {}, spare_queue, countdown=1.0)) for n in range(20)),
        publisher.publish(TaskMessage("now", "add", (), {}, spare_queue)),
    )
    arrived: dict[str, float] = {}
    async with asyncio.timeout(15):
        while len(arrived) < 21:
            message: Any = channel.basic_get(spare_queue, no_ack=True)
            if message is None:
                await asyncio.sleep(0.02)
            else:
                arrived[message.properties["application_headers"]["id"]] = loop.time() - start
    assert arrived.keys() == {"now", *(f"{n}" for n in range(20))}
    assert min(at for task_id, at in arrived.items() if task_id != "now") >= 1
    channel.exchange_delete(f"{spare_queue}-exchange")


async def test_a_countdown_of_a_classic_queue_is_a_header(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    await make_broker().publish(TaskMessage("id", "add", (), {}, spare_queue, countdown=60))
    _, headers, _ = take(channel, spare_queue)
    eta = datetime.fromisoformat(headers["eta"])
    assert timedelta(seconds=50) < eta - datetime.now(UTC) < timedelta(seconds=61)


async def test_a_workflows_messages_are_all_there(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker(options={"max_in_flight": 50})
    recorder = publisher._recorder
    publications = [
        recorder.task(TaskMessage(f"{n}", "add", (n,), {}, spare_queue, serializer="pickle" if n % 2 else "json"))
        for n in range(300)
    ]
    await publisher.publish_all(publications)
    assert [take(channel, spare_queue)[0]["correlation_id"] for _ in range(300)] == [f"{n}" for n in range(300)]


async def test_nothing_of_a_workflow_is_sent_if_a_part_cannot_be_encoded(
    make_broker: BrokerFactory, spare_queue: str, channel: Channel
) -> None:
    publisher = make_broker()
    await publisher.publish(TaskMessage("first", "add", (), {}, spare_queue))
    good = publisher._recorder.task(TaskMessage("good", "add", (), {}, spare_queue))
    bad = Publication(task_id="bad", body=object(), options=good.options)
    with pytest.raises(Exception, match="cannot be serialised"):
        await publisher.publish_all([good, bad])
    assert take(channel, spare_queue)[1]["id"] == "first"
    assert channel.basic_get(spare_queue) is None


async def test_a_revoke_is_broadcast(make_broker: BrokerFactory, channel: Channel) -> None:
    declared: Any = channel.queue_declare(exclusive=True)
    publisher = make_broker()
    await publisher.revoke(["nobody listens"], terminate=False)
    channel.queue_bind(declared.queue, "celery.pidbox")
    await publisher.revoke(["a", "b"], terminate=True)
    properties, headers, body = take(channel, declared.queue)
    assert json.loads(body) == {
        "method": "revoke",
        "arguments": {"task_id": ["a", "b"], "terminate": True, "signal": "SIGTERM"},
        "destination": None,
    }
    assert properties["content_type"] == "application/json"
    assert headers["expires"] == 0


async def test_one_connection_serves_all(make_broker: BrokerFactory, broker: Address, spare_queue: str) -> None:
    publisher = make_broker()
    await asyncio.gather(
        *(publisher.publish(TaskMessage(f"{n}", "add", (), {}, spare_queue)) for n in range(100))
    )
    await asyncio.gather(*(publisher.ping() for _ in range(100)))
    session = publisher._session
    assert session is not None
    await publisher.publish(TaskMessage("more", "add", (), {}, spare_queue))
    assert publisher._session is session
