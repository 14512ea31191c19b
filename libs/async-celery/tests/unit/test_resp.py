"""A connection to Redis, byte by byte: replies find their calls, messages find their taker."""

import asyncio
from typing import Any, cast

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_celery.resp import Connection


class Wire(asyncio.Transport):
    """Keeps what is written; is no socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self

    family = 1  # AF_UNIX: has no options to set


class Messages(list[tuple[bytes, bytes]]):
    def __call__(self, channel: bytes, payload: bytes) -> None:
        self.append((channel, payload))


def connect(messages: Messages | None = None) -> tuple[Connection, Wire]:
    connection, wire = Connection(messages), Wire()
    connection.connection_made(wire)
    return connection, wire


def receive(connection: Connection, data: bytes, size: int = 1 << 20) -> None:
    for start in range(0, len(data), size):
        part = data[start : start + size]
        connection.get_buffer(-1)[: len(part)] = part
        connection.buffer_updated(len(part))


MESSAGE = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nhello\r\n"
PMESSAGE = b"*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$2\r\ncd\r\n$0\r\n\r\n"


@given(size=st.integers(1, 300))
def test_however_the_bytes_come_every_reply_finds_its_call(size: int) -> None:
    async def run() -> None:
        messages = Messages()
        connection, _ = connect(messages)
        first = connection.call(("PING",))
        second = connection.call((b"SUBSCRIBE", b"a", b"b"), replies=2)
        third = connection.call(("GET", "x"))
        confirmations = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n" + MESSAGE
        confirmations += b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"
        receive(connection, MESSAGE + b"+PONG\r\n" + PMESSAGE + confirmations + b"$3\r\nxyz\r\n", size)
        assert await first == [b"PONG"]
        assert await second == [[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]]
        assert await third == [b"xyz"]
        assert messages == [(b"c", b"hello"), (b"cd", b""), (b"c", b"hello")]

    asyncio.run(run())


async def test_commands_are_written_together() -> None:
    connection, wire = connect()
    answer = connection.call(("SET", b"k", "é"), ("DEL", "k", 12))
    assert wire.written == (
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\xc3\xa9\r\n*3\r\n$3\r\nDEL\r\n$1\r\nk\r\n$2\r\n12\r\n"
    )
    receive(connection, b"+OK\r\n:1\r\n")
    assert await answer == [b"OK", 1]


async def test_a_cancelled_call_leaves_the_others_in_step() -> None:
    connection, _ = connect()
    calls = [connection.call(("GET", n)) for n in range(3)]
    calls[0].cancel()
    calls[1].cancel()
    receive(connection, b"$1\r\na\r\n-ERR b\r\n$1\r\nc\r\n")
    assert await calls[2] == [b"c"]


async def test_an_error_fails_its_call_alone() -> None:
    connection, _ = connect()
    pipeline = connection.call(("SET", "a", 1), ("SET", "b", 1), ("SET", "c", 1))
    after = connection.call(("PING",))
    receive(connection, b"+OK\r\n-OOM no memory\r\n+OK\r\n+PONG\r\n")
    with pytest.raises(hiredis.ReplyError, match="OOM"):
        await pipeline
    assert await after == [b"PONG"]


async def test_an_error_is_the_only_answer_to_a_refused_subscription() -> None:
    connection, _ = connect(Messages())
    refused = connection.call(("SUBSCRIBE", "a", "b", "c"), replies=3)
    after = connection.call(("PING",))
    receive(connection, b"-NOPERM\r\n+PONG\r\n")
    with pytest.raises(hiredis.ReplyError, match="NOPERM"):
        await refused
    assert await after == [b"PONG"]


async def test_a_stored_list_is_no_message() -> None:
    connection, _ = connect()
    answer = connection.call(("MGET", "a", "b", "c"))
    receive(connection, MESSAGE)
    assert await answer == [[b"message", b"c", b"hello"]]


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR max number of clients\r\n", b"\0\0"]
)
async def test_what_is_not_an_answer_ends_the_connection(said: bytes) -> None:
    connection, wire = connect()
    receive(connection, said)
    assert wire.aborted


async def test_a_lost_connection_fails_what_is_unanswered_and_takes_no_more() -> None:
    connection, _ = connect()
    kept, cancelled = connection.call(("PING",)), connection.call(("PING",))
    cancelled.cancel()
    connection.connection_lost(OSError("the cable"))
    with pytest.raises(ConnectionError, match="the cable"):
        await kept
    with pytest.raises(ConnectionError, match="the cable"):
        cast("Any", connection.call)(("PING",))
    assert connection.lost.done()
