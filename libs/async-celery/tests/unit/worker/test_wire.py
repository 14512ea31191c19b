"""The connection that a worker consumes on: what it holds, what it reads, and what it takes for granted."""

import inspect
import socket
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import amqp.method_framing
import pytest
from amqp.exceptions import RecoverableConnectionError, UnexpectedFrame
from kombu import Connection as KombuConnection
from kombu.asynchronous import Hub
from kombu.transport import pyamqp

from async_celery.worker import wire
from async_celery.worker.pool import AsynPool

HEARTBEAT = struct.pack(">BHIB", 8, 0, 0, 0xCE)


def ack(tag: int) -> bytes:
    return struct.pack(">BHIHHQBB", 1, 7, 13, 60, 80, tag, 0, 0xCE)


class Ends:
    """Our end of a connection, and the broker's."""

    def __init__(self) -> None:
        ours, self.broker = socket.socketpair()
        self.broker.setblocking(False)
        self.transport: Any = wire.TCPTransport("localhost", connect_timeout=None)
        self.transport.sock = ours
        self.transport._setup_transport()
        self.transport.connected = True
        self.channel: Any = wire.Channel.__new__(wire.Channel)
        self.channel.connection = SimpleNamespace(transport=self.transport)
        self.channel.channel_id = 7

    def arrived(self) -> bytes:
        try:
            return self.broker.recv(10_000)
        except BlockingIOError:
            return b""


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.broker.close()
    made.transport.sock.close()


def test_acknowledgements_are_held_until_they_go_together(ends: Ends) -> None:
    ends.transport.holds = lambda: None
    for tag in (1, 2, 3):
        ends.channel.basic_ack(tag)
    assert ends.arrived() == b""
    ends.transport.flush()
    assert ends.arrived() == ack(1) + ack(2) + ack(3)
    ends.transport.flush()
    assert ends.arrived() == b""


def test_whatever_is_written_takes_them_along_in_front(ends: Ends) -> None:
    ends.transport.holds = lambda: None
    ends.channel.basic_ack(1)
    ends.transport.write(memoryview(HEARTBEAT))
    assert ends.arrived() == ack(1) + HEARTBEAT


def test_a_held_one_is_what_py_amqp_writes(ends: Ends) -> None:
    written = []
    connection = SimpleNamespace(frame_max=10_000, bytes_sent=0)
    connection.frame_writer = amqp.method_framing.frame_writer(
        connection, SimpleNamespace(write=lambda data: written.append(bytes(data)))
    )
    connection.transport = ends.transport
    ends.channel.connection = connection
    ends.channel.basic_ack(9)
    assert written == [ack(9)]
    ends.transport.holds = lambda: None
    ends.channel.basic_ack(9)
    assert ends.transport.held == [ack(9)]
    ends.channel.basic_ack(10, multiple=True)
    assert len(written) == 2


def test_on_a_connection_that_is_closed_none_is_held(ends: Ends) -> None:
    ends.channel.connection = None
    with pytest.raises(RecoverableConnectionError):
        ends.channel.basic_ack(1)


class Loop:
    """Celery's, of a consumer whose pool has so many tasks waiting."""

    def __init__(self, ends: Ends, *, waiting: int, prefetch: int) -> None:
        self.ends, self.hub = ends, Hub()
        pool: Any = AsynPool.__new__(AsynPool)
        pool.outbound_buffer, pool._ahead = [object()] * waiting, set()
        self.pool = pool
        self.consumer = SimpleNamespace(
            hub=self.hub,
            pool=SimpleNamespace(_pool=pool, num_processes=2),
            qos=SimpleNamespace(value=prefetch),
        )

    def run(self, *turns: int) -> list[bytes]:
        """Acknowledge so many messages in each turn; return what has arrived after each, and at the end."""
        arrived = []

        def loop(*_args: Any) -> None:
            tags = iter(range(1, 100))
            for count in turns:
                for _tag in range(count):
                    self.ends.channel.basic_ack(next(tags))
                for look in list(self.hub.on_tick):
                    look()
                arrived.append(self.ends.arrived())

        connection: Any = SimpleNamespace(connection=SimpleNamespace(transport=self.ends.transport))
        wire.holding(loop)(self.consumer, connection)
        return [*arrived, self.ends.arrived()]


def test_half_of_what_may_wait_is_held(ends: Ends) -> None:
    assert Loop(ends, waiting=2, prefetch=8).run(1, 1, 1, 1) == [b"", b"", ack(1) + ack(2) + ack(3), b"", ack(4)]
    assert not ends.transport.holds


def test_none_is_held_when_no_task_waits(ends: Ends) -> None:
    assert Loop(ends, waiting=0, prefetch=8).run(1, 2) == [ack(1), ack(2) + ack(3), b""]


def test_none_is_held_where_as_many_are_taken_as_there_are_processes(ends: Ends) -> None:
    assert Loop(ends, waiting=1, prefetch=2).run(1) == [ack(1), b""]


def test_none_is_held_for_long(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(ends, waiting=3, prefetch=8)
    later: list[Any] = []

    def call_later(_: float, flush: Any) -> Any:
        later.append(flush)
        return SimpleNamespace(cancel=lambda: None)

    monkeypatch.setattr(loop.hub, "call_later", call_later)

    def turn(*_args: Any) -> None:
        ends.channel.basic_ack(1)
        for _turn in range(2):
            for look in list(loop.hub.on_tick):
                look()
        assert len(later) == 1
        later[0]()
        assert ends.arrived() == ack(1)
        ends.channel.basic_ack(2)
        for look in list(loop.hub.on_tick):
            look()
        assert len(later) == 2

    connection: Any = SimpleNamespace(connection=SimpleNamespace(transport=ends.transport))
    wire.holding(turn)(loop.consumer, connection)


@pytest.mark.parametrize("is_lost", [False, True])
def test_nothing_of_a_connection_is_left_when_its_loop_ends(ends: Ends, is_lost: bool) -> None:
    loop = Loop(ends, waiting=3, prefetch=80)

    def turn(*_args: Any) -> None:
        ends.channel.basic_ack(1)
        if is_lost:
            ends.broker.close()
            ends.transport.receive()

    connection: Any = SimpleNamespace(connection=SimpleNamespace(transport=ends.transport))
    with pytest.raises(OSError, match="closed") if is_lost else nullcontext():
        wire.holding(turn)(loop.consumer, connection)
    assert ends.transport.held == []
    assert is_lost or ends.arrived() == ack(1)
    assert not loop.hub.on_tick
    # The next connection's loop looks at the same timers.
    assert [entry for entry in loop.hub.timer.queue if not entry.entry.canceled] == []


def test_frames_are_taken_from_memory_and_rests_wait(ends: Ends) -> None:
    frame = struct.pack(">BHI", 3, 7, 5) + b"hello\xce"
    ends.broker.send(frame + HEARTBEAT + frame[:9])
    ends.transport.receive()
    assert ends.transport.next_frame() == (3, 7, b"hello")
    assert ends.transport.next_frame() == (8, 0, b"")
    assert ends.transport.next_frame() is None
    ends.transport.receive()  # nothing is there, and nobody waits
    ends.broker.send(frame[9:] + HEARTBEAT)
    # As py-amqp reads where it waits for an answer.
    assert ends.transport.read_frame() == (3, 7, b"hello")
    ends.transport.receive()
    assert ends.transport.next_frame() == (8, 0, b"")


def test_what_is_no_frame_is_an_error(ends: Ends) -> None:
    ends.broker.send(HEARTBEAT[:-1] + b"x")
    ends.transport.receive()
    with pytest.raises(UnexpectedFrame):
        ends.transport.next_frame()


def test_the_end_of_the_connection_is_an_error(ends: Ends) -> None:
    ends.broker.close()
    with pytest.raises(OSError, match="closed"):
        ends.transport.receive()
    assert not ends.transport.connected


@pytest.mark.parametrize("url", ["amqp://", "pyamqp://", "amqps://"])
def test_connections_to_rabbitmq_are_ours(url: str) -> None:
    said = KombuConnection(f"{url}broker.test").as_uri()
    connection = wire.own(KombuConnection(f"{url}broker.test"))
    assert connection.as_uri() == said
    assert isinstance(connection.transport, wire.Transport)
    assert bool(connection.ssl) == (url == "amqps://")
    made: Any = connection.transport.Connection(host="broker.test", ssl=connection.ssl)
    socket_ = made.Transport("broker.test", 1.0, connection.ssl, None, None, socket_settings=None)
    assert isinstance(socket_, wire.SSLTransport if connection.ssl else wire.TCPTransport)


def test_other_brokers_are_celerys() -> None:
    assert not isinstance(wire.own(KombuConnection("memory://")).transport, wire.Transport)


def test_py_amqp_is_as_it_is_taken_for() -> None:
    """The pinned version: what is overridden is called, and with these."""
    assert list(inspect.signature(pyamqp.Channel.basic_ack).parameters)[1:3] == ["delivery_tag", "multiple"]
    assert list(inspect.signature(pyamqp.Connection.Transport).parameters)[1:6] == [
        "host",
        "connect_timeout",
        "ssl",
        "read_timeout",
        "write_timeout",
    ]
    assert "write = transport.write" in inspect.getsource(amqp.method_framing.frame_writer)
