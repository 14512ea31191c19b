"""The AMQP connection, fed with bytes: frames in any pieces, confirms in any order, silence, nonsense."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from amqp import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_celery import amqp
from async_celery.amqp import Channel, ChannelClosed, ConfirmChannel, Connection, ConnectionLost, Endpoint

ENDPOINT = Endpoint(host="127.0.0.1", port=9, user="user", password="secret", virtual_host="/")
ACK, NACK = 80, 120


class Transport(asyncio.Transport):
    """Keeps what is written; each write is one item."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self

    def setsockopt(self, *_: int) -> None:
        pass


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return amqp._frame(kind, channel, payload)


def method(channel: int, class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    return frame(1, channel, class_id.to_bytes(2) + method_id.to_bytes(2) + arguments)


def confirm(kind: int, tag: int, multiple: bool = False) -> bytes:
    return method(1, 60, kind, tag.to_bytes(8) + bytes([multiple]))


def opened(heartbeat: float = 0) -> tuple[Connection, Transport]:
    """Return a connection that has been made, and where it writes to."""
    connection = Connection(Endpoint(**{**vars(ENDPOINT), "heartbeat": heartbeat}), "secret", {"product": "test"})
    transport = Transport()
    connection.connection_made(transport)
    return connection, transport


class Told:
    """What a channel has told of its messages."""

    def __init__(self, connection: Connection, number: int = 1) -> None:
        self.settled: list[tuple[str, bool]] = []
        self.returned: list[tuple[str, str]] = []
        self.channel: ConfirmChannel[str] = ConfirmChannel(
            connection,
            number,
            on_settled=lambda message, ack: self.settled.append((message, ack)),
            on_returned=lambda message, text: self.returned.append((message, text)),
            id_of=lambda message: message.partition("#")[0],
        )
        connection.register(self.channel)


FRAMES = amqp.message_frames(amqp.basic_publish("", "q", mandatory=True), b"header", b"body")


async def test_the_handshake() -> None:
    connection, transport = opened(heartbeat=10)
    await asyncio.sleep(0)
    assert transport.written == [b"AMQP\x00\x00\x09\x01"]
    start = serialization.dumps("ooFSS", (0, 9, {"product": "RabbitMQ"}, "AMQPLAIN PLAIN", "en_US"))
    connection.data_received(method(0, 10, 10, start))
    await asyncio.sleep(0)
    assert b"\0user\0secret" in transport.written[-1]
    assert b"publisher_confirms" in transport.written[-1]
    connection.data_received(method(0, 10, 30, serialization.dumps("BlB", (2047, 131072, 60))))
    await asyncio.sleep(0)
    assert transport.written[-1].startswith(method(0, 10, 31, serialization.dumps("BlB", (2047, 131072, 10))))
    connection.data_received(method(0, 10, 41, b"\0"))
    await connection._opened
    connection.abort("the test is over")
    assert transport.aborted


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"), [(10, 60, 10), (10, 5, 5), (10, 0, 10), (0, 60, 60), (0, 0, 0)]
)
async def test_the_shorter_heartbeat_is_agreed(ours: float, theirs: int, agreed: int) -> None:
    connection, transport = opened(ours)
    connection.data_received(method(0, 10, 30, serialization.dumps("BlB", (0, 0, theirs))))
    await asyncio.sleep(0)
    assert method(0, 10, 31, serialization.dumps("BlB", (0, 131072, agreed))) in transport.written[-1]
    connection.abort("the test is over")


@pytest.mark.parametrize("where", ["at login", "later"])
async def test_a_close_by_the_server_is_told(where: str) -> None:
    connection, transport = opened()
    if where == "later":
        connection.data_received(method(0, 10, 41, b"\0"))
    arguments = serialization.dumps("BsBB", (403, "ACCESS_REFUSED - no", 0, 0))
    connection.data_received(method(0, 10, 50, arguments))
    reason = await connection.lost
    assert isinstance(reason, amqp.LoginRefused if where == "at login" else amqp.ConnectionBroken)
    assert "ACCESS_REFUSED - no" in str(reason)
    assert method(0, 10, 51) in b"".join(transport.written)


async def test_a_close_by_an_operator_is_nobodys_fault() -> None:
    connection, _ = opened()
    connection.data_received(method(0, 10, 41, b"\0"))
    connection.data_received(method(0, 10, 50, serialization.dumps("BsBB", (320, "CONNECTION_FORCED", 0, 0))))
    assert type(await connection.lost) is ConnectionLost


async def test_a_password_that_cannot_be_had_is_no_login() -> None:
    def ask() -> str:
        raise KeyError("the vault is sealed")

    with pytest.raises(ConnectionLost, match="the vault is sealed"):
        await Connection.connect(Endpoint(**{**vars(ENDPOINT), "password": ask}), {})


def test_nothing_shows_the_password() -> None:
    assert "secret" not in repr(ENDPOINT)
    assert "secret" not in str(ENDPOINT)


class Confirms:
    """Draws how a broker might confirm `count` messages: each once, singly or many at a time."""

    @staticmethod
    @st.composite
    def of(draw: st.DrawFn, count: int) -> list[tuple[int, int, bool]]:
        left = list(range(1, count + 1))
        confirms = []
        while left:
            tag = draw(st.sampled_from(left))
            multiple = draw(st.booleans())
            confirms.append((draw(st.sampled_from([ACK, NACK])), tag, multiple))
            left = [other for other in left if other > tag] if multiple else [o for o in left if o != tag]
        return confirms


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), count=st.integers(1, 40))
def test_every_message_is_settled_once_however_it_is_confirmed(data: st.DataObject, count: int) -> None:
    confirms = data.draw(Confirms.of(count))
    wire = b"".join(confirm(*each) for each in confirms)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    expected: dict[str, bool] = {}
    for kind, tag, multiple in confirms:
        for settled in range(1, tag + 1) if multiple else [tag]:
            expected.setdefault(str(settled), kind == ACK)

    async def run() -> None:
        connection, _ = opened()
        told = Told(connection)
        for number in range(1, count + 1):
            told.channel.publish(str(number), FRAMES)
        for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            connection.data_received(wire[start:end])
        assert dict(told.settled) == expected
        assert len(told.settled) == count
        assert not told.channel.unconfirmed
        assert not connection.lost.done()

    asyncio.run(run())


def returned(message_id: str, body: bytes) -> bytes:
    properties = b"\x00\x80" + serialization.dumps("s", (message_id,))
    header = b"\x00\x3c\x00\x00" + len(body).to_bytes(8) + properties
    content = frame(2, 1, header) + b"".join(frame(3, 1, body[n : n + 3]) for n in range(0, len(body), 3))
    return method(1, 60, 50, serialization.dumps("Bsss", (312, "NO_ROUTE", "", "q"))) + content


async def test_returns_find_their_messages_in_order() -> None:
    connection, _ = opened()
    told = Told(connection)
    names = ["a", "b", "twice#1", "c", "twice#2"]
    for name in names:
        told.channel.publish(name, FRAMES)
    connection.data_received(returned("b", b"12345678") + returned("twice", b"") + returned("unknown", b"1"))
    connection.data_received(returned("twice", b"1") + confirm(ACK, 5, multiple=True))
    assert told.returned == [(name, "NO_ROUTE") for name in ("b", "twice#1", "twice#2")]
    assert [name for name, _ in told.settled] == names


async def test_what_one_turn_of_the_loop_sends_is_few_writes() -> None:
    connection, transport = opened()
    await asyncio.sleep(0)
    told = Told(connection)
    fill, more = amqp._WRITE_AT_ONCE // len(FRAMES) + 1, 10
    for number in range(fill + more):
        told.channel.publish(str(number), FRAMES)
    assert transport.written[1:] == [FRAMES * fill]
    connection.flush()
    connection.flush()
    assert transport.written[1:] == [FRAMES * fill, FRAMES * more]


@given(
    header=st.binary(max_size=200),
    body=st.binary(max_size=1000) | st.integers(0, 300_000).map(lambda size: b"x" * size),
    number=st.integers(1, 9),
    frame_max=st.integers(256, amqp.FRAME_MAX),
)
def test_frames_for_another_channel_say_the_same(header: bytes, body: bytes, number: int, frame_max: int) -> None:
    frames = amqp.message_frames(amqp.basic_publish("e", "k", mandatory=True), header, body)
    again = amqp._framed_again(frames, number, frame_max)
    bodies, offset, kinds = b"", 0, []
    while offset < len(again):
        kind, channel, size = amqp._FRAME_HEAD.unpack_from(again, offset)
        assert channel == number
        assert size + 8 <= frame_max
        payload = again[offset + 7 : offset + 7 + size]
        kinds.append(kind)
        bodies += payload if kind == 3 else b""
        if kind == 2:
            assert payload == header
        offset += size + 8
    assert kinds[:2] == [1, 2]
    assert set(kinds[2:]) <= {3}
    assert bodies == body
    assert amqp._framed_again(again, amqp.PUBLISHING, amqp.FRAME_MAX) == frames


def test_headers_that_do_not_fit_are_an_error() -> None:
    frames = amqp.message_frames(amqp.basic_publish("e", "k", mandatory=True), b"x" * 300, b"")
    with pytest.raises(ValueError, match="headers"):
        amqp._framed_again(frames, 2, 256)


async def test_answers_go_to_their_requests_and_a_refusal_to_all_that_follow() -> None:
    connection, _ = opened()
    channel = Channel(connection, 2)
    opening = asyncio.create_task(channel.open())
    await asyncio.sleep(0)
    connection.data_received(method(2, 20, 11, bytes(4)))
    await opening
    first = asyncio.create_task(channel.call(amqp.PING, amqp.PING))
    await asyncio.sleep(0)
    second = asyncio.create_task(channel.call(amqp.PING))
    await asyncio.sleep(0)
    connection.data_received(method(2, 60, 11))
    connection.data_received(method(2, 60, 11))
    await first
    assert not second.done()
    arguments = serialization.dumps("BsBB", (406, "PRECONDITION_FAILED - no", 0, 0))
    connection.data_received(method(2, 20, 40, arguments))
    with pytest.raises(ChannelClosed, match="PRECONDITION_FAILED") as caught:
        await second
    assert caught.value.code == 406
    with pytest.raises(ChannelClosed):
        await channel.call(amqp.PING)
    assert not connection.lost.done()


async def test_a_lost_connection_fails_what_waits() -> None:
    connection, _ = opened()
    told = Told(connection)
    told.channel.publish("a", FRAMES)
    waiting = asyncio.create_task(told.channel.call(amqp.PING))
    await asyncio.sleep(0)
    connection.connection_lost(ConnectionResetError("cut"))
    with pytest.raises(ConnectionLost, match="cut"):
        await waiting
    assert told.channel.unconfirmed == {1: "a"}
    assert not connection.writable
    assert not told.settled


async def test_blocked_and_room_are_told() -> None:
    connection, _ = opened()
    calls: list[str | None] = []
    connection.on_progress = lambda: calls.append(connection.blocked)
    connection.data_received(method(0, 10, 60, serialization.dumps("s", ("low on memory",))))
    connection.data_received(method(0, 10, 61))
    assert calls == ["low on memory", None]
    connection.pause_writing()
    assert not connection.writable
    connection.resume_writing()
    assert connection.writable
    assert len(calls) == 3


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x01\x00\x00\x00\x00\x00\x04abcd!",
        frame(7, 0, b"no such type"),
        frame(2, 2, b"content nobody asked for"),
        method(9, 20, 41),
        confirm(ACK, 1)[:1] + b"\0\2" + confirm(ACK, 1)[3:],
        method(0, 10, 30, b"\x00"),
    ],
    ids=range(7),
)
async def test_what_is_not_amqp_ends_the_connection(nonsense: bytes) -> None:
    connection, transport = opened()
    connection.data_received(nonsense)
    assert "not understood" in str(await connection.lost)
    assert transport.aborted


@contextlib.asynccontextmanager
async def beating(every: float) -> AsyncIterator[tuple[Connection, Transport]]:
    connection, transport = opened()
    connection._beat(every)
    yield connection, transport
    connection.abort("the test is over")


async def test_heartbeats_are_sent_when_nothing_else_is() -> None:
    async with beating(0.02) as (connection, transport):
        async with asyncio.timeout(5):
            while sum(data.endswith(amqp._HEARTBEAT_FRAME) for data in transport.written) < 3:
                connection.data_received(amqp._HEARTBEAT_FRAME)
                await asyncio.sleep(0.005)
        assert not connection.lost.done()


async def test_silence_ends_the_connection() -> None:
    async with beating(0.02) as (connection, transport):
        async with asyncio.timeout(5):
            reason = await connection.lost
        assert "heard nothing" in str(reason)
        assert transport.aborted


async def test_closing_does_not_wait_for_ever() -> None:
    connection, transport = opened()
    await connection.close(0.01)
    assert transport.aborted
    assert method(0, 10, 50, serialization.dumps("BsBB", (200, "closed by the client", 0, 0))) in b"".join(
        transport.written
    )
    await connection.close(10)
