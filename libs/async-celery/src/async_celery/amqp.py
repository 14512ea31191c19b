"""An AMQP 0-9-1 connection for asyncio: as much of it as publishing with confirms takes.

How it works: one `asyncio.Protocol` per connection. Frames come in through `data_received`; the two that arrive
once per message, `basic.ack` and `basic.nack`, are read by hand, all others by py-amqp's codec, the one that
Celery's own producer and worker use. Frames that go out are collected and written together.
`Channel` makes requests and waits for their answers, which the protocol sends in the order of the requests;
`ConfirmChannel` also publishes and keeps what is not confirmed yet. Nothing here reconnects: a connection that
is lost resolves `lost` with the reason, once, and every request on it fails.

What belongs here: the protocol (RabbitMQ's 0-9-1 specification and extensions). What is sent, when to connect
again and what becomes of a message is `publisher.py`'s; which servers there are, `endpoints.py`'s.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, cast

from amqp import serialization

M = TypeVar("M")

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
FRAME_END = b"\xce"
_FRAME_OVERHEAD = 8

FRAME_MAX = 1 << 17
"""The largest frame in bytes, RabbitMQ's default; only a server configured otherwise negotiates a smaller one."""
PUBLISHING = 1
"""The channel that messages are framed for."""
_FRAME_HEAD = struct.Struct(">BHI")
"""Type, channel, size of the payload."""
HEADER, BODY = struct.pack(">BH", _HEADER, PUBLISHING), struct.pack(">BH", _BODY, PUBLISHING)
"""How the two kinds of frames of a message's content begin; the size of the payload follows, in 4 bytes."""
_HEARTBEAT_FRAME = _FRAME_HEAD.pack(_HEARTBEAT, 0, 0) + FRAME_END

_CONFIRM = struct.Struct(">BHIIQB")
"""The start of a frame with `basic.ack` or `basic.nack`: its head, method, delivery tag, bits (1: multiple)."""
_CONFIRM_SIZE = 13
_CONFIRM_FRAME = _CONFIRM_SIZE + _FRAME_OVERHEAD
_MULTIPLE = 1

# Class and method id of each method in use.
_START, _START_OK = 10 << 16 | 10, 10 << 16 | 11
_TUNE, _TUNE_OK = 10 << 16 | 30, 10 << 16 | 31
_OPEN, _OPEN_OK = 10 << 16 | 40, 10 << 16 | 41
_CLOSE, _CLOSE_OK = 10 << 16 | 50, 10 << 16 | 51
_BLOCKED, _UNBLOCKED = 10 << 16 | 60, 10 << 16 | 61
_CHANNEL_OPEN, _CHANNEL_CLOSE, _CHANNEL_CLOSE_OK = 20 << 16 | 10, 20 << 16 | 40, 20 << 16 | 41
_EXCHANGE_DECLARE, _EXCHANGE_BIND = 40 << 16 | 10, 40 << 16 | 30
_QUEUE_DECLARE, _QUEUE_BIND = 50 << 16 | 10, 50 << 16 | 20
_BASIC_QOS, _BASIC_PUBLISH, _BASIC_RETURN = 60 << 16 | 10, 60 << 16 | 40, 60 << 16 | 50
_BASIC_ACK, _BASIC_NACK = 60 << 16 | 80, 60 << 16 | 120
_CONFIRM_SELECT = 85 << 16 | 10

_ARGUMENTS = {
    _START: "ooFSS",
    _TUNE: "BlB",
    _CLOSE: "BsBB",
    _BLOCKED: "s",
    _CHANNEL_CLOSE: "BsBB",
    _BASIC_RETURN: "Bsss",
}
"""Of the methods that come in, those whose arguments matter, in py-amqp's notation."""

_REFUSED_LOGIN = (403, 530)
"""ACCESS_REFUSED: wrong user or password; NOT_ALLOWED: no such virtual host, or not for this user."""
_CONNECTION_FORCED = 320
"""An operator closed the connection."""
_REPLY_SUCCESS = 200

_CAPABILITIES = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}

# A write takes as long as encoding three messages; but the broker is to work on the first of many messages while
# the others are being encoded.
_WRITE_AT_ONCE = 64 * 1024  # bytes
_MISSED_HEARTBEATS = 2  # RabbitMQ's own measure


class ConnectionLost(Exception):  # noqa: N818 (reads as what happened)
    """There is no connection (any more); the text says why."""


class LoginRefused(ConnectionLost):
    """The server is there, and does not let us in."""


class ConnectionBroken(ConnectionLost):
    """The server closed the connection because of something that it got from us."""


class ChannelClosed(Exception):  # noqa: N818 (reads as what happened)
    """The server closed the channel because of a request or a message on it: `code` and `text` are its."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One server, and how to get in. `heartbeat` and `connect_timeout` in s; heartbeat 0 for none."""

    host: str
    port: int
    user: str
    password: str | Callable[[], str]
    virtual_host: str
    mechanism: str = "PLAIN"
    tls: ssl.SSLContext | None = None
    server_hostname: str | None = None
    heartbeat: float = 10.0
    connect_timeout: float = 4.0

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.virtual_host.lstrip('/')}"

    def __repr__(self) -> str:
        # Not the dataclass's: it would show the password in logs and tracebacks.
        return f"<Endpoint {self}>"


class Method(NamedTuple):
    """A request: class and method id, its arguments, already encoded."""

    id: int
    arguments: bytes


def exchange_declare(
    name: str, kind: str, *, passive: bool, durable: bool, auto_delete: bool, arguments: Any
) -> Method:
    """Return `exchange.declare`."""
    values = (0, name, kind, passive, durable, auto_delete, False, False, arguments)
    return Method(_EXCHANGE_DECLARE, serialization.dumps("BssbbbbbF", values))


def exchange_bind(destination: str, source: str, routing_key: str, arguments: Any) -> Method:
    """Return `exchange.bind`, RabbitMQ's extension."""
    values = (0, destination, source, routing_key, False, arguments)
    return Method(_EXCHANGE_BIND, serialization.dumps("BsssbF", values))


def queue_declare(
    name: str, *, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, arguments: Any
) -> Method:
    """Return `queue.declare`."""
    values = (0, name, passive, durable, exclusive, auto_delete, False, arguments)
    return Method(_QUEUE_DECLARE, serialization.dumps("BsbbbbbF", values))


def queue_bind(queue: str, exchange: str, routing_key: str, arguments: Any) -> Method:
    """Return `queue.bind`."""
    values = (0, queue, exchange, routing_key, False, arguments)
    return Method(_QUEUE_BIND, serialization.dumps("BsssbF", values))


def basic_publish(exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """Return the frame that goes before a message: the same for every message to one place."""
    values = (0, exchange, routing_key, mandatory, False)
    return _frame(_METHOD, PUBLISHING, _BASIC_PUBLISH.to_bytes(4) + serialization.dumps("Bssbb", values))


def message_frames(publish: bytes, header: bytes, body: bytes) -> bytes:
    """Return all frames of a message, for the channel `PUBLISHING`.

    Args:
        publish: from `basic_publish`.
        header: the payload of the content header's frame; at most `FRAME_MAX` - 8 bytes.
        body: of any size; it is split.
    """
    pack = _FRAME_HEAD.pack
    if 0 < len(body) <= FRAME_MAX - _FRAME_OVERHEAD:
        return b"".join(
            (
                publish,
                pack(_HEADER, PUBLISHING, len(header)),
                header,
                FRAME_END,
                pack(_BODY, PUBLISHING, len(body)),
                body,
                FRAME_END,
            )
        )
    return publish + _frame(_HEADER, PUBLISHING, header) + _body_frames(PUBLISHING, body, FRAME_MAX)


def _body_frames(number: int, body: bytes, frame_max: int) -> bytes:
    step = frame_max - _FRAME_OVERHEAD
    return b"".join(_frame(_BODY, number, body[start : start + step]) for start in range(0, len(body), step))


def _frame(kind: int, number: int, payload: bytes) -> bytes:
    return b"".join((_FRAME_HEAD.pack(kind, number, len(payload)), payload, FRAME_END))


def content_of(frames: bytes) -> tuple[bytes, bytes]:
    """Return the payload of a message's content header, and its body."""
    payloads = _payloads(frames)
    return payloads[_HEADER], payloads.get(_BODY, b"")


def _payloads(frames: bytes) -> dict[int, bytes]:
    """Return the payloads of a message's frames by their types, those of one type put together."""
    payloads: dict[int, bytes] = {}
    offset = 0
    while offset < len(frames):
        kind, _, size = _FRAME_HEAD.unpack_from(frames, offset)
        payload = frames[offset + _FRAME_HEAD.size : offset + _FRAME_HEAD.size + size]
        payloads[kind] = payloads.get(kind, b"") + payload
        offset += size + _FRAME_OVERHEAD
    return payloads


def _framed_again(frames: bytes, number: int, frame_max: int) -> bytes:
    """Return a message's frames for another channel, or with smaller frames.

    Raises:
        ValueError: its headers do not fit into one frame, and cannot be split.
    """
    payloads = _payloads(frames)
    header = payloads[_HEADER]
    if len(header) > frame_max - _FRAME_OVERHEAD:
        raise ValueError(f"its headers have {len(header)} bytes, the broker takes frames of {frame_max} at most")
    return (
        _frame(_METHOD, number, payloads[_METHOD])
        + _frame(_HEADER, number, header)
        + _body_frames(number, payloads.get(_BODY, b""), frame_max)
    )


PING = Method(_BASIC_QOS, serialization.dumps("lBb", (0, 0, False)))
"""`basic.qos`: changes nothing on a channel that consumes nothing, needs no permission, and is answered."""


class Connection(asyncio.Protocol):
    """One connection; made by `connect`.

    Attributes: `frame_max` in bytes; `writable`, whether more should be written now; `blocked`, the server's
    reason for taking no messages now, or None; `lost`, resolved with the reason when the connection has ended;
    `on_progress`, called when there is something new: confirms, room to write in, blocked or not.
    """

    def __init__(self, endpoint: Endpoint, password: str, client_properties: dict[str, Any]) -> None:
        """Use `connect`."""
        self._loop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._password = password
        self._client_properties = client_properties
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._channels: dict[int, Channel] = {}
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._silent_ticks = 0
        self._heard = self._wrote = False
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[ConnectionLost] = self._loop.create_future()
        self.frame_max = FRAME_MAX
        self.writable = True
        self.blocked: str | None = None
        self.on_progress: Callable[[], None] = _do_nothing

    @classmethod
    async def connect(cls, endpoint: Endpoint, client_properties: dict[str, Any]) -> "Connection":
        """Connect and log in.

        Args:
            endpoint: where to.
            client_properties: what the server shows of us, in its management UI for example.

        Raises:
            LoginRefused: wrong user, password or virtual host.
            ConnectionLost: there is no server, it is no AMQP server, or it does not answer in time.
        """
        try:
            password = endpoint.password() if callable(endpoint.password) else endpoint.password
        except Exception as exc:
            # The caller's own function: whatever it raises, there is no login now, and maybe later.
            raise ConnectionLost(f"{endpoint}: there is no password: {exc!r}") from exc
        connection = cls(endpoint, password, client_properties)
        try:
            async with asyncio.timeout(endpoint.connect_timeout):
                await connection._loop.create_connection(
                    lambda: connection,
                    endpoint.host,
                    endpoint.port,
                    ssl=endpoint.tls,
                    server_hostname=(endpoint.server_hostname or endpoint.host) if endpoint.tls else None,
                )
                await connection._opened
        except TimeoutError as exc:
            connection.abort("connecting took too long")
            raise ConnectionLost(f"{endpoint} did not answer within {endpoint.connect_timeout:g} s") from exc
        except (OSError, UnicodeError) as exc:  # TLS errors are OSErrors; host names may be impossible ones
            raise ConnectionLost(f"{endpoint}: {exc}") from exc
        except BaseException:
            connection.abort("connecting was given up")
            raise
        return connection

    async def close(self, within: float) -> None:
        """Say good-bye; cut the connection when that is not answered.

        Args:
            within: in s, how long to wait for the server's answer.
        """
        if not self.lost.done():
            values = (_REPLY_SUCCESS, "closed by the client", 0, 0)
            self.send_method(0, Method(_CLOSE, serialization.dumps("BsBB", values)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.lost), within)
        self.abort("closed by the client")

    def abort(self, reason: str) -> None:
        """Cut the connection now."""
        self._end(ConnectionLost(f"{self._endpoint}: {reason}"))

    def register(self, channel: "Channel") -> None:
        """Hand everything that arrives for `channel.number` to this channel."""
        self._channels[channel.number] = channel

    def put(self, frames: bytes) -> None:
        """Have whole frames written with the next `flush`; before that when they are many."""
        self._out.append(frames)
        self._out_bytes += len(frames)
        if self._out_bytes >= _WRITE_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what was put."""
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._wrote = True
        self._out.clear()
        self._out_bytes = 0

    def send(self, frames: bytes) -> None:
        """Write whole frames in the loop's next iteration."""
        self.put(frames)
        self._loop.call_soon(self.flush)

    def send_method(self, number: int, method: Method) -> None:
        """Write a request on the channel `number`."""
        self.send(_frame(_METHOD, number, method.id.to_bytes(4) + method.arguments))

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the server."""
        # Not asserted: uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._endpoint.heartbeat and hasattr(socket, "TCP_USER_TIMEOUT"):
            # Written data that nobody acknowledges ends the connection as silence does.
            milliseconds = int(_MISSED_HEARTBEATS * self._endpoint.heartbeat * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self.send(_PROTOCOL_HEADER)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, whatever the reason."""
        self._end(ConnectionLost(f"{self._endpoint}: {exc or 'the server closed the connection'}"))

    def pause_writing(self) -> None:
        """Note that the server does not keep up."""
        self.writable = False

    def resume_writing(self) -> None:
        """Note that it does again."""
        if not self.lost.done():
            self.writable = True
            self.on_progress()

    def data_received(self, data: bytes) -> None:
        """Handle what came in."""
        self._heard = True
        if self._buffer:
            data = self._buffer + data
        try:
            used = self._read_frames(data)
        except Exception as exc:
            # Whatever is wrong with it, this stream cannot be followed any further.
            self.abort(f"the server sent what is not understood: {exc!r}")
        else:
            self._buffer = data[used:]

    def _read_frames(self, data: bytes) -> int:
        """Handle all whole frames; return how many bytes they had."""
        offset, end, confirmed = 0, len(data), False
        while end - offset >= _FRAME_OVERHEAD:
            kind, number, size = _FRAME_HEAD.unpack_from(data, offset)
            after = offset + size + _FRAME_OVERHEAD
            if after > end:
                if size > FRAME_MAX:
                    raise ValueError(f"a frame of {size} bytes")
                break
            if data[after - 1] != FRAME_END[0]:
                raise ValueError("a frame does not end where it should")
            if size == _CONFIRM_SIZE and kind == _METHOD:
                _, _, _, method, tag, bits = _CONFIRM.unpack_from(data, offset)
                if method in (_BASIC_ACK, _BASIC_NACK):
                    self._channels[number].on_confirm(tag, bool(bits & _MULTIPLE), method == _BASIC_ACK)
                    confirmed = True
                    offset = after
                    continue
            self._on_frame(kind, number, data[offset + 7 : after - 1])
            offset = after
        if confirmed:
            self.on_progress()
        return offset

    def _on_frame(self, kind: int, number: int, payload: bytes) -> None:
        if kind == _METHOD:
            method = int.from_bytes(payload[:4])
            arguments: Sequence[Any] = ()
            if method in _ARGUMENTS:
                arguments, _ = serialization.loads(_ARGUMENTS[method], payload, 4)
            if number:
                self._channels[number].on_method(method, arguments)
            else:
                self._on_connection_method(method, arguments)
        elif kind in (_HEADER, _BODY):
            self._channels[number].on_content(kind == _HEADER, payload)
        elif kind != _HEARTBEAT:
            raise ValueError(f"there are no frames of type {kind}")

    def _on_connection_method(self, method: int, arguments: Sequence[Any]) -> None:
        if method == _START:
            self._log_in(arguments[3])
        elif method == _TUNE:
            self._tune(*arguments)
        elif method == _OPEN_OK:
            if not self._opened.done():
                self._opened.set_result(None)
        elif method == _CLOSE:
            code, text = arguments[:2]
            self.send_method(0, Method(_CLOSE_OK, b""))
            self.flush()
            self._end(self._kind_of_close(code)(f"{self._endpoint}: {text}"))
        elif method == _CLOSE_OK:
            self.abort("closed by the client")
        elif method in (_BLOCKED, _UNBLOCKED):
            self.blocked = (arguments[0] or "no reason given") if method == _BLOCKED else None
            self.on_progress()

    def _kind_of_close(self, code: int) -> type[ConnectionLost]:
        if not self._opened.done():
            return LoginRefused if code in _REFUSED_LOGIN else ConnectionLost
        return ConnectionLost if code in (_CONNECTION_FORCED, _REPLY_SUCCESS) else ConnectionBroken

    def _log_in(self, mechanisms: str) -> None:
        endpoint = self._endpoint
        if endpoint.mechanism not in mechanisms.split():
            self._end(LoginRefused(f"{endpoint} offers the login methods {mechanisms}, not {endpoint.mechanism}"))
            return
        # RFC 4616; EXTERNAL takes the user from the client's certificate.
        response = f"\0{endpoint.user}\0{self._password}" if endpoint.mechanism == "PLAIN" else ""
        properties = {**self._client_properties, "capabilities": _CAPABILITIES}
        values = (properties, endpoint.mechanism, response, "en_US")
        self.send_method(0, Method(_START_OK, serialization.dumps("FsSs", values)))

    def _tune(self, channel_max: int, frame_max: int, heartbeat: int) -> None:
        ours = self._endpoint.heartbeat
        interval = int(min(ours, heartbeat) if ours and heartbeat else ours or heartbeat)
        self.frame_max = min(frame_max or FRAME_MAX, FRAME_MAX)  # 0: no limit
        tuned = serialization.dumps("BlB", (channel_max, self.frame_max, interval))
        self.send_method(0, Method(_TUNE_OK, tuned))
        opening = serialization.dumps("ssb", (self._endpoint.virtual_host, "", False))
        self.send_method(0, Method(_OPEN, opening))
        if interval:
            self._beat(interval / 2)

    def _beat(self, every: float) -> None:
        """Write when nothing else was written since the last beat; give up when nothing was heard for long."""
        self._silent_ticks = 0 if self._heard else self._silent_ticks + 1
        if self._silent_ticks >= 2 * _MISSED_HEARTBEATS:
            self.abort(f"heard nothing for {self._silent_ticks * every:g} s")
            return
        if not self._wrote:
            self.send(_HEARTBEAT_FRAME)
        self._heard = self._wrote = False
        self._heartbeat_timer = self._loop.call_later(every, self._beat, every)

    def _end(self, reason: ConnectionLost) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()
        if not self._opened.done():
            self._opened.set_exception(reason)
            self._opened.exception()  # nobody may be waiting for it
        self.writable = False
        if self._transport is not None:
            # Not `close`, which first waits until all is written: to a peer that may have gone.
            self._transport.abort()
        for channel in self._channels.values():
            channel.on_end(reason)


class Channel:
    """A channel for requests. `closed` is resolved with the reason when the server or the connection ended it."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.number = number
        self.closed: asyncio.Future[ChannelClosed | ConnectionLost] = connection.lost.get_loop().create_future()
        self._connection = connection
        self._answers: deque[asyncio.Future[None]] = deque()

    async def open(self) -> None:
        """Open it. A channel that the server has closed is not opened again: make a new one of its number.

        Raises:
            ChannelClosed, ConnectionLost: as for `call`.
        """
        self._connection.register(self)
        await self.call(Method(_CHANNEL_OPEN, b"\0"))

    async def call(self, *methods: Method) -> None:
        """Make these requests, all at once, and wait until every one is answered.

        Raises:
            ChannelClosed: the server refused one; the channel is closed.
            ConnectionLost: it cannot answer any more.
        """
        if self.closed.done():
            raise self.closed.result()
        loop = self.closed.get_loop()
        answers = [loop.create_future() for _ in methods]
        for method in methods:
            self._connection.send_method(self.number, method)
        self._answers += answers
        for answer in answers:
            await answer

    def on_method(self, method: int, arguments: Sequence[Any]) -> None:
        """Take a method that came in."""
        if method == _CHANNEL_CLOSE:
            code, text = arguments[:2]
            self._connection.send_method(self.number, Method(_CHANNEL_CLOSE_OK, b""))
            self.on_end(ChannelClosed(code, text))
        elif self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(None)

    def on_confirm(self, tag: int, multiple: bool, ack: bool) -> None:
        """Take a confirm; only a `ConfirmChannel` gets any."""
        raise ValueError(f"a confirm of {tag} on a channel without messages: {multiple=}, {ack=}")

    def on_content(self, is_header: bool, payload: bytes) -> None:
        """Take a frame of a message; only a `ConfirmChannel` gets any."""
        raise ValueError(f"a message on a channel without messages: {is_header=}, {len(payload)} bytes")

    def on_end(self, reason: ChannelClosed | ConnectionLost) -> None:
        """Fail what waits for an answer."""
        if self.closed.done():
            return
        self.closed.set_result(reason)
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(reason)
                answer.exception()  # of those asked at once, only the first is awaited


class ConfirmChannel(Channel, Generic[M]):
    """A channel that publishes. Every message is settled once: confirmed, refused, or left in `unconfirmed`.

    Attributes: `unconfirmed`, the messages by their delivery tag, oldest first.
    """

    def __init__(
        self,
        connection: Connection,
        number: int,
        *,
        on_settled: Callable[[M, bool], None],
        on_returned: Callable[[M, str], None],
        id_of: Callable[[M], str | None],
    ) -> None:
        """Make the channel; `open` it before use.

        Args:
            connection: which it is part of.
            number: 1 or more.
            on_settled: called with a message, and whether the broker has it.
            on_returned: called with a message that no queue would receive, and the broker's words; before it is
                settled.
            id_of: returns the `message_id` that a message was encoded with.
        """
        super().__init__(connection, number)
        self.unconfirmed: dict[int, M] = {}
        self._on_settled = on_settled
        self._on_returned = on_returned
        self._id_of = id_of
        # Than messages are framed for.
        self._is_other = number != PUBLISHING or connection.frame_max < FRAME_MAX
        self._last_tag = 0
        self._oldest = 1  # no tag below it is unconfirmed
        self._may_be_returned = 1  # returns come in the order of the messages: none below it is returned any more
        self._returned_text = ""
        self._content_left = 0  # bytes

    async def open(self) -> None:
        """See `Channel`."""
        await super().open()
        await self.call(Method(_CONFIRM_SELECT, b"\0"))

    def publish(self, message: M, frames: bytes) -> None:
        """Publish with the connection's next `flush`; `frames` are from `message_frames`.

        Raises:
            ValueError: its headers are too large for this server.
        """
        if self._is_other:
            frames = _framed_again(frames, self.number, self._connection.frame_max)
        self._last_tag = tag = self._last_tag + 1
        self.unconfirmed[tag] = message
        self._connection.put(frames)

    def on_confirm(self, tag: int, multiple: bool, ack: bool) -> None:
        """See `Channel`."""
        if not multiple:
            message = self.unconfirmed.pop(tag, None)
            if message is not None:
                self._on_settled(message, ack)
            return
        for confirmed in range(self._oldest, tag + 1):
            message = self.unconfirmed.pop(confirmed, None)
            if message is not None:
                self._on_settled(message, ack)
        self._oldest = max(self._oldest, tag + 1)

    def on_method(self, method: int, arguments: Sequence[Any]) -> None:
        """See `Channel`."""
        if method == _BASIC_RETURN:
            self._returned_text = arguments[1]
        else:
            super().on_method(method, arguments)

    def on_content(self, is_header: bool, payload: bytes) -> None:
        """See `Channel`; the content is that of a returned message."""
        if not is_header:
            self._content_left -= len(payload)
            return
        self._content_left = int.from_bytes(payload[4:12])
        properties, _ = serialization.decode_properties_basic(payload, 12)
        message_id = properties.get("message_id")
        for tag in range(self._may_be_returned, self._last_tag + 1):
            message = self.unconfirmed.get(tag)
            if message is not None and self._id_of(message) == message_id:
                self._may_be_returned = tag + 1
                self._on_returned(message, self._returned_text)
                break


def _do_nothing() -> None:
    pass
