"""Wire: the connection that a worker consumes on, with fewer reads and writes than messages.

How it works: py-amqp reads each message in nine parts, and writes each acknowledgement by itself. Here one read
takes what has come, and its messages (`deliveries.py`) and other frames are taken from memory. Acknowledgements
are held while tasks wait for the pool's processes, up to half as many as may wait there: they go out together,
and the broker answers with as many messages at once, while the processes work off the other half. They are held
no longer than `_LONGEST`, and only while the worker's event loop runs (`holding`). Whatever else is written on
the connection (a rejection, a heartbeat, its end) takes them along, in front. Should the worker die meanwhile,
the messages come back and their tasks are found finished: none runs again. Where no more messages are taken than
there are processes (`worker_prefetch_multiplier` 1), none is held.

TLS is read as py-amqp does it, by records. A connection that kombu makes anew for another broker of a list is
Celery's own.

What belongs here: bytes from and to the broker. What the messages say is `consumer.py`'s.
"""

import contextlib
import socket
from collections.abc import Callable
from functools import wraps
from struct import Struct
from typing import Any

import amqp.transport
from amqp.basic_message import Message
from amqp.exceptions import RecoverableConnectionError, UnexpectedFrame
from kombu.transport import pyamqp

from async_celery.worker.deliveries import Delivery, UncommonError, next_delivery

_FRAME = Struct(">BHI")
_END = 0xCE
_FRAMES = 3  # of a message
_ACK = Struct(">BHIHHQBB")
_ACK_SIZE, _BASIC, _BASIC_ACK = 13, 60, 80
_AT_ONCE = 128 * 1024  # bytes
_MOST = 32  # acknowledgements
_LONGEST = 0.005  # s

_TCPTransport: Any = amqp.transport.TCPTransport
_SSLTransport: Any = amqp.transport.SSLTransport
_Channel: Any = pyamqp.Channel
_Connection: Any = pyamqp.Connection
_Transport: Any = pyamqp.Transport


class _Holding:
    """A connection's socket, which can hold acknowledgements."""

    connected: bool

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.holds: Callable[[], None] | None = None
        """Told of the first one that is held; None while none may be."""
        self.held: list[bytes] = []

    def write(self, data: Any) -> None:
        """Write what is held, then `data`.

        Raises:
            OSError: the connection is lost.
        """
        if self.held:
            held, self.held = self.held, []
            data = b"".join((*held, data))
        super().write(data)  # type: ignore[misc]  # it is a mixin

    def flush(self) -> None:
        """Write what is held.

        Raises:
            OSError: the connection is lost.
        """
        if self.held:
            self.write(b"")


class TCPTransport(_Holding, _TCPTransport):  # type: ignore[misc]  # no stubs
    """py-amqp's, which can read all that has come."""

    _come = b""
    _at = 0  # what has come before is taken

    @property
    def _read_buffer(self) -> bytes:
        """What py-amqp has read and not taken; where it waits for an answer, it reads on here."""
        return self._come[self._at :]

    @_read_buffer.setter
    def _read_buffer(self, data: bytes) -> None:
        self._come, self._at = data, 0

    def receive(self) -> None:
        """Read what is there, without waiting.

        Raises:
            OSError: the connection is lost.
        """
        try:
            data = self.sock.recv(_AT_ONCE, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.connected = False
            raise
        if not data:
            self.connected = False
            raise OSError("Server unexpectedly closed connection")
        self._read_buffer += data

    def next_delivery(self) -> Delivery | None:
        """Return the next message, if the next that has been read is one as a whole; None for nothing.

        It is `taken` by who takes it.

        Raises:
            UncommonError: something else is next.
        """
        found = next_delivery(self._come, self._at)
        if found is None:
            return None
        delivery, self._end = found
        return delivery

    def taken(self) -> None:
        """Go on behind the last message that was returned."""
        self._at = self._end

    def next_frame(self) -> tuple[int, int, bytes] | None:
        """Return the next frame that has been read as a whole, None for none.

        Raises:
            UnexpectedFrame: it is none.
        """
        come, at = self._come, self._at + _FRAME.size
        if len(come) < at:
            return None
        kind, channel, size = _FRAME.unpack_from(come, self._at)
        end = at + size
        if len(come) <= end:
            return None
        if come[end] != _END:
            raise UnexpectedFrame(f"Received frame_end {come[end]:#04x} while expecting 0xce")
        self._at = end + 1
        return kind, channel, come[at:end]


class SSLTransport(_Holding, _SSLTransport):  # type: ignore[misc]  # no stubs
    """py-amqp's."""


class Channel(_Channel):  # type: ignore[misc]  # no stubs
    """kombu's, whose acknowledgements can be held."""

    def basic_ack(self, delivery_tag: int, multiple: bool = False, **options: Any) -> Any:
        """Acknowledge a message, or as soon as the connection does not hold it any more."""
        transport = self.connection and self.connection.transport
        if not transport or not transport.holds or multiple:
            return super().basic_ack(delivery_tag, multiple, **options)
        ack = _ACK.pack(1, self.channel_id, _ACK_SIZE, _BASIC, _BASIC_ACK, delivery_tag, 0, _END)
        if not transport.held:
            transport.holds()
        transport.held.append(ack)
        return None

    def deliver(self, delivery: Delivery) -> None:
        """Handle a message as py-amqp does when it has put one together."""
        message = Message(delivery.body)
        message.properties = properties = delivery.properties
        if self.auto_decode and (encoding := properties.get("content_encoding")):
            with contextlib.suppress(Exception):
                message.body = delivery.body.decode(encoding)
        self._on_basic_deliver(
            delivery.consumer_tag,
            delivery.delivery_tag,
            delivery.redelivered,
            delivery.exchange,
            delivery.routing_key,
            message,
        )


class Connection(_Connection):  # type: ignore[misc]  # no stubs
    """kombu's, over our sockets."""

    Channel = Channel

    def Transport(self, host: str, connect_timeout: float | None, ssl: Any, *timeouts: Any, **more: Any) -> Any:  # noqa: N802
        """Return a socket that is not connected yet. (The name is py-amqp's.)"""
        more["read_timeout"], more["write_timeout"] = timeouts
        made = SSLTransport if ssl else TCPTransport
        return made(host, connect_timeout=connect_timeout, ssl=ssl, **more)

    def take_next(self, transport: TCPTransport) -> bool:
        """Handle the next message or frame that has been read as a whole; return whether there was one.

        Raises:
            RecoverableConnectionError: the connection is closed.
        """
        try:
            delivery = transport.next_delivery()
        except UncommonError:
            return self._take_frame(transport)
        if delivery is None:
            return False
        channel = self.channels and self.channels.get(delivery.channel)
        if not channel or channel.is_closing:
            return self._take_frame(transport)
        transport.taken()
        self.bytes_recv += _FRAMES  # py-amqp counts frames
        channel.deliver(delivery)
        return True

    def _take_frame(self, transport: TCPTransport) -> bool:
        if (frame := transport.next_frame()) is None:
            return False
        self.on_inbound_frame(frame)
        return True


class Transport(_Transport):  # type: ignore[misc]  # no stubs
    """kombu's `pyamqp`, over our connections."""

    Connection = Connection

    def on_readable(self, connection: Any, loop: Any) -> None:
        """Handle all messages that have come.

        Raises:
            OSError, RecoverableConnectionError: the connection is lost.
        """
        transport = connection.transport if connection.connected else None
        if not isinstance(transport, TCPTransport):
            super().on_readable(connection, loop)
            return
        transport.receive()
        while connection.take_next(transport):
            if not connection.connected:
                raise RecoverableConnectionError("Socket was disconnected")


def own(connection: Any) -> Any:
    """Have kombu's connection, which is not connected yet, use our transport if it is to RabbitMQ."""
    scheme = connection.transport_cls
    if scheme in ("amqp", "pyamqp", "amqps"):
        connection.transport_cls = Transport
        connection.ssl = connection.ssl or scheme == "amqps"
        # By it, the log names the broker.
        connection.resolve_aliases = {**connection.resolve_aliases, Transport: scheme.removeprefix("py")}
    return connection


def holding(loop: Callable[..., None]) -> Callable[..., None]:
    """Return Celery's event loop of a consumer, in which acknowledgements are held while the pool has work."""

    @wraps(loop)
    def run(consumer: Any, connection: Any, *args: Any) -> None:
        transport = getattr(connection.connection, "transport", None)
        pool = consumer.pool._pool or consumer.pool
        if not isinstance(transport, _Holding) or not hasattr(pool, "has_waiting"):
            loop(consumer, connection, *args)
            return
        hub = consumer.hub
        timers: list[Any] = []

        def flush() -> None:
            timers.clear()
            transport.flush()

        def first() -> None:
            # Not in `look`: there the loop has looked at its timers, and would wait for another one.
            if not timers:
                timers.append(hub.call_later(_LONGEST, flush))

        def look() -> None:
            if transport.held:
                may_wait = consumer.qos.value - consumer.pool.num_processes
                if not pool.has_waiting or len(transport.held) >= (min(may_wait // 2, _MOST) or 1):
                    transport.flush()

        transport.holds = first
        hub.on_tick.add(look)
        try:
            loop(consumer, connection, *args)
        finally:
            hub.on_tick.discard(look)
            transport.holds = None
            # The next connection's loop has the same timers: one of this connection would take it for lost.
            for timer in timers:
                timer.cancel()
            if transport.connected:
                transport.flush()
            else:
                transport.held.clear()  # their messages come back by themselves

    return run
