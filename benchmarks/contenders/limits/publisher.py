"""The limits of enqueueing: prebuilt bytes written to a raw connection, publisher confirms pipelined.

How it works: without a way, a window of as many messages as there are senders: each arrival of confirms is
answered by one write of as many messages as were confirmed. No tasks and no futures, so only the broker, the
kernel and the parsing of confirms are left. With the way `awaited`, senders are coroutines that each await a
future of their own, and what one turn of the loop sends is one write: what any client costs that lets its callers
await a send, before it has encoded anything.

What belongs here: publishing at the limit, and filling queues with tasks that can be told apart.
"""

import asyncio
import time
from typing import Any, TypeVar

import wire
from bench_protocol import Command, LoopLag, resident_memory, task_id
from bench_protocol import enqueue as enqueue_awaited
from pamqp import commands

_ACK, _METHOD = b"\x00\x3c\x00\x50", 1  # basic.ack
_WARM_UP = 20
_CHUNK = 200


_AnyPublisher = TypeVar("_AnyPublisher", bound="_Publisher")


class _Publisher(asyncio.Protocol):
    """A connection in confirm mode; `confirmed` is called with each tag, or with all tags up to it."""

    def __init__(self) -> None:
        self._frames = wire.Frames()
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the broker has closed the connection"))

    def data_received(self, data: bytes) -> None:
        for kind, payload in self._frames.feed(data):
            if kind != _METHOD or payload[:4] != _ACK:
                self.transport.abort()  # a nack or a return: nothing after it would be a limit
                return
            self.confirm(int.from_bytes(payload[4:12], "big"), multiple=bool(payload[12] & 1))
        self.confirmed()

    def confirm(self, tag: int, *, multiple: bool) -> None:
        """Take note of one confirm."""
        raise NotImplementedError

    def confirmed(self) -> None:
        """Act on all confirms that came at once."""


class _Pump(_Publisher):
    """Keeps a window of unconfirmed messages full."""

    def __init__(self) -> None:
        super().__init__()
        self._confirmed_to = 0  # every tag up to here is confirmed
        self._confirmed_above: set[int] = set()
        self._answered = 0
        self._sent = 0
        self._message = b""
        self._end = 0.0
        self._limit = 0

    async def send(self, message: bytes, window: int, *, seconds: float = 0.0, count: int = 0) -> int:
        """Send for a time, or a number of messages; return how many were sent, all of them confirmed."""
        begun = self._sent
        self._message = message
        self._end = time.perf_counter() + seconds if seconds else float("inf")
        self._limit = self._sent + count if count else 1 << 62
        self._done = asyncio.get_running_loop().create_future()
        self._write(min(window, count or window))
        await self._done
        return self._sent - begun

    async def send_once(self, messages: list[bytes]) -> None:
        """Send different messages at once; return when all are confirmed."""
        self._end = 0.0  # nothing is sent again
        self._done = asyncio.get_running_loop().create_future()
        self._sent += len(messages)
        self.transport.write(b"".join(messages))
        await self._done

    def _write(self, count: int) -> None:
        self._sent += count
        self.transport.write(self._message * count)

    def confirm(self, tag: int, *, multiple: bool) -> None:
        if multiple:
            self._confirmed_to = max(self._confirmed_to, tag)
            self._confirmed_above = {above for above in self._confirmed_above if above > tag}
        else:
            self._confirmed_above.add(tag)
        while self._confirmed_to + 1 in self._confirmed_above:
            self._confirmed_to += 1
            self._confirmed_above.remove(self._confirmed_to)

    def confirmed(self) -> None:
        confirmed = self._confirmed_to + len(self._confirmed_above)
        fresh, self._answered = confirmed - self._answered, confirmed
        if time.perf_counter() < self._end and (more := min(fresh, self._limit - self._sent)):
            self._write(more)
        if confirmed == self._sent and self._done is not None and not self._done.done():
            self._done.set_result(None)


class Awaited(_Publisher):
    """Gives every send a future; one write per turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._tag = self._confirmed_to = 0
        self._unwritten: list[bytes] = []

    def send(self, message: bytes) -> "asyncio.Future[None]":
        """Send one message; the future ends with its confirm."""
        loop = asyncio.get_running_loop()
        if not self._unwritten:
            loop.call_soon(self._flush)
        self._unwritten.append(message)
        self._tag += 1
        self._unconfirmed[self._tag] = future = loop.create_future()
        return future

    def _flush(self) -> None:
        self.transport.write(b"".join(self._unwritten))
        self._unwritten.clear()

    def confirm(self, tag: int, *, multiple: bool) -> None:
        """End the futures of what is confirmed."""
        for one in range(self._confirmed_to + 1, tag + 1) if multiple else (tag,):
            if future := self._unconfirmed.pop(one, None):
                future.set_result(None)
        if multiple:
            self._confirmed_to = tag


async def connected(url: str, publisher: _AnyPublisher) -> _AnyPublisher:
    """Return the publisher, connected and in confirm mode."""
    connection = wire.amqp(url)
    wire.call(connection, commands.Confirm.Select(), commands.Confirm.SelectOk)
    connection.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: publisher, sock=connection)
    return publisher


def enqueue(asked: Command) -> dict[str, Any]:
    """Do the enqueue row."""
    message = wire.Message(asked.queue).encode(task_id(1), 1)

    async def awaited() -> dict[str, Any]:
        publisher = await connected(asked.broker, Awaited())
        answer = await enqueue_awaited(asked, lambda: publisher.send(message))
        publisher.transport.close()
        return answer

    async def run() -> dict[str, Any]:
        pump = await connected(asked.broker, _Pump())
        total = await pump.send(message, 1, count=_WARM_UP)
        levels = []
        for senders in asked.levels:
            begin, cpu = time.perf_counter(), time.process_time()
            async with LoopLag() as lag:
                sent = await pump.send(message, senders, seconds=asked.seconds)
                took, cpu = time.perf_counter() - begin, time.process_time() - cpu
            levels.append({"senders": senders, "sent": sent, "seconds": took, "cpu": cpu, "lag": lag.longest})
        pump.transport.close()
        return {"levels": levels, "total": total + sum(level["sent"] for level in levels)}

    return asyncio.run(awaited() if asked.way == "awaited" else run())


def backlog(asked: Command) -> dict[str, Any]:
    """Do the row of many queued tasks; as `bench_protocol.backlog`."""
    message, window = wire.Message(asked.queue).encode(task_id(1), 1), asked.count // 10

    async def run() -> dict[str, Any]:
        pump = await connected(asked.broker, _Pump())

        async def send(count: int) -> float:
            begin = time.perf_counter()
            await pump.send(message, 50, count=count)
            return count / (time.perf_counter() - begin)

        await send(1000)
        early, early_memory = await send(window), resident_memory()
        await send(asked.count - 1000 - 2 * window)
        late = await send(window)
        pump.transport.close()
        memory = {"early_memory": early_memory, "late_memory": resident_memory()}
        return {"early": early, "late": late, **memory, "total": asked.count}

    return asyncio.run(run())


def fill(asked: Command) -> dict[str, Any]:
    """Queue `count` no-op tasks, each with its own number and id."""
    message = wire.Message(asked.queue, ignore_result=asked.ignore_result)

    async def run() -> None:
        pump = await connected(asked.broker, _Pump())
        for first in range(0, asked.count, _CHUNK):
            numbers = range(first, min(first + _CHUNK, asked.count))
            await pump.send_once([message.encode(task_id(number), number) for number in numbers])
        pump.transport.close()

    asyncio.run(run())
    return {"filled": asked.count}
