"""Redis from asyncio: connections that speak its protocol, RESP2, and commands over one of them.

How it works: a `Connection` is an asyncio protocol. A call is written at once, whatever is still unanswered
before it; replies come in the order of the calls and resolve their futures. So nobody reads the socket on behalf
of one call: a caller that is cancelled gives up its future, its reply is read all the same and dropped, and the
calls of everybody else stay in step. On a connection that subscribes, messages stand between the replies and go
to `on_message`. The bytes are received into one buffer and parsed by hiredis, in C.

`Commands` is a connection that is made when it is first needed, and made anew when it was lost. One is enough:
Redis works on one command at a time anyhow. Every call ends within a timeout, as a `BackendError` if need be.

What belongs here: bytes and connections. What is asked of Redis, and why, is `push.py`'s and `results.py`'s.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self, cast

import hiredis

from async_celery.errors import BackendError

# What is received at one go: some 200 small messages, each of which may wake a waiter; or, in the middle of a
# large one, as much as makes it cheap. Redis drops a subscriber that lags 32 MB behind.
_RECEIVE_BYTES = 64 * 1024
_RECEIVE_BYTES_OF_LARGE = 1024 * 1024
# A peer that has gone without a word is noticed on an idle connection after 30 + 3 * 5 s.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_MESSAGES = (b"pmessage", b"message")
_INCOMPLETE = object()

Command = tuple[str | bytes | int, ...]
"""A command's name and its arguments."""
OnMessage = Callable[[bytes, bytes], None]
"""Called with the channel and the payload of a message; must not raise."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where Redis is, and how to log in.

    `path` is that of a Unix socket, which goes before `host` and `port`. `credentials` returns the arguments of
    AUTH, none for none; `tls` returns the context to connect with, after reading its files, in a thread.
    """

    host: str
    port: int
    path: str | None
    db: int
    client_name: str | None
    credentials: Callable[[], Awaitable[tuple[str, ...]]]
    tls: Callable[[], ssl.SSLContext] | None


class Connection(asyncio.BufferedProtocol):
    """One connection, logged in; made by `open`."""

    def __init__(self, on_message: OnMessage | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._buffer = bytearray(_RECEIVE_BYTES_OF_LARGE)
        self._start_of_buffer = memoryview(self._buffer)[:_RECEIVE_BYTES]
        self._calls: deque[_Call] = deque()
        self._transport: asyncio.Transport
        self._reason = "closed by the server"
        self.received_at = self._loop.time()
        """When anything came in last, in the loop's time."""
        self.lost: asyncio.Future[ConnectionError] = self._loop.create_future()
        """Done once there is no connection any more; its result says why."""

    @classmethod
    async def open(cls, address: Address, on_message: OnMessage | None = None) -> Self:
        """Connect and log in.

        Args:
            address: where to.
            on_message: for a connection that subscribes, what takes the messages.

        Raises:
            OSError: there is nobody, or not who it should be.
            hiredis.ReplyError: the login or the database is refused.
        """
        loop = asyncio.get_running_loop()
        tls = await asyncio.to_thread(address.tls) if address.tls else None
        if address.path is not None:
            _, self = await loop.create_unix_connection(lambda: cls(on_message), address.path)
        else:
            _, self = await loop.create_connection(lambda: cls(on_message), address.host, address.port, ssl=tls)
        try:
            if credentials := await address.credentials():
                await self.call(("AUTH", *credentials))
            if address.db:
                await self.call(("SELECT", address.db))
            if address.client_name:
                await self.call(("CLIENT", "SETNAME", address.client_name))
        except BaseException:
            self.abort("not logged in")
            raise
        return self

    def call(self, *commands: Command, replies: int | None = None) -> asyncio.Future[list[Any]]:
        """Send commands; the future gets their replies.

        It fails with the first `hiredis.ReplyError` among them, or with a `ConnectionError` when the connection
        is lost, before or after the commands were carried out.

        Args:
            commands: what to send, as one write.
            replies: how many there will be; one for each command when None. A SUBSCRIBE has one per channel.

        Raises:
            ConnectionError: it is lost already; nothing was sent.
        """
        if self.lost.done():
            raise self.lost.result()
        call = _Call(self._loop.create_future(), replies or len(commands), is_pipeline=len(commands) > 1)
        self._calls.append(call)
        # hiredis types the tuple by one member.
        packed = [hiredis.pack_command(cast("Any", command)) for command in commands]
        self._write(packed[0] if len(packed) == 1 else b"".join(packed))
        return call.future

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def abort(self, reason: str) -> None:
        """Drop the connection now; what is unanswered fails. May be repeated."""
        self._reason = reason
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast("asyncio.Transport", transport)
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                # Not every system has them all.
                if option := getattr(socket, name, None):
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def get_buffer(self, sizehint: int) -> bytearray | memoryview:  # noqa: ARG002 (asyncio's signature)
        """See `asyncio.BufferedProtocol`."""
        return self._buffer if self._reader.len() >= _RECEIVE_BYTES else self._start_of_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self.received_at = self._loop.time()
        reader = self._reader
        try:
            # Any buffer will do, whatever hiredis' types say; it copies what it keeps.
            reader.feed(cast("Any", self._buffer), 0, nbytes)
            while (reply := reader.gets()) is not _INCOMPLETE:
                self._take(reply)
        except hiredis.ProtocolError as exc:
            self.abort(f"that is not Redis: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        error = ConnectionError(f"connection lost: {exc or self._reason}")
        self.lost.set_result(error)
        while self._calls:
            self._calls.popleft().fail(error)

    def _take(self, reply: Any) -> None:
        if self._on_message is not None and type(reply) is list and reply[0] in _MESSAGES:
            self._on_message(reply[-2], reply[-1])
        elif not self._calls:
            self.abort(f"the server said, unasked: {reply!r:.100}")
        elif self._calls[0].take(reply):
            self._calls.popleft()


class _Call:
    """Commands that are not yet fully answered."""

    __slots__ = ("_is_pipeline", "_missing", "_replies", "future")

    def __init__(self, future: asyncio.Future[list[Any]], missing: int, *, is_pipeline: bool) -> None:
        self.future = future
        self._missing = missing
        self._is_pipeline = is_pipeline
        self._replies: list[Any] = []

    def take(self, reply: Any) -> bool:
        """Take the next reply; return whether it was the last one."""
        self._replies.append(reply)
        self._missing -= 1
        # An error is the only reply to its command, however many there would have been without it.
        if self._missing and (self._is_pipeline or not isinstance(reply, hiredis.ReplyError)):
            return False
        if error := next((reply for reply in self._replies if isinstance(reply, hiredis.ReplyError)), None):
            self.fail(error)
        elif not self.future.done():
            self.future.set_result(self._replies)
        return True

    def fail(self, error: Exception) -> None:
        """Tell the caller, who may have gone."""
        if not self.future.done():
            self.future.set_exception(error)


class Commands:
    """Commands to Redis, over one connection of its own that comes and goes as it must."""

    def __init__(self, address: Address, *, timeout: float) -> None:
        """Remember where Redis is; connects when first called.

        Args:
            address: where Redis is.
            timeout: in s, for each call, connecting included.
        """
        self._address = address
        self._timeout = timeout
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None

    async def __call__(self, *commands: Command) -> list[Any]:
        """Send commands together, return their replies.

        They must bear to be carried out twice: a connection that is lost over them is made again, once.

        Raises:
            BackendError: no answer within the timeout, no connection, or an error for an answer.
        """
        if not commands:
            return []
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connected()
                with contextlib.suppress(ConnectionError):
                    return await connection.call(*commands)
                connection = await self._connected()
                return await connection.call(*commands)
        except TimeoutError as exc:
            if connection is not None:
                # Replies come in order: whatever was asked later would wait behind this one.
                connection.abort("the server hangs")
            raise BackendError(f"the result backend did not answer within {self._timeout:g} s") from exc
        except hiredis.ReplyError as exc:
            raise BackendError(f"the result backend refused: {exc}") from exc
        except (OSError, ValueError) as exc:
            # A ValueError: the host's name is none.
            raise BackendError(f"the result backend is not reachable: {exc}") from exc

    async def _connected(self) -> Connection:
        """Return the connection; all who need a new one wait for the same attempt."""
        if self._connection is None or self._connection.lost.done():
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect(), name="async-celery-redis-connect")
                # Nobody may be left to hear of a failure.
                self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
            attempt = self._connecting
            # Whoever waits may be cancelled, but not the attempt: the others need it still.
            await asyncio.wait({attempt})
            return attempt.result()
        return self._connection

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._timeout):
                self._connection = await self._open()
                return self._connection
        finally:
            self._connecting = None

    async def _open(self) -> Connection:
        return await Connection.open(self._address)

    async def aclose(self) -> None:
        """Drop the connection, and what is unanswered on it."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        if self._connection is not None:
            self._connection.abort("closed here")
            await asyncio.wait({self._connection.lost})
