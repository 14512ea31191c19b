"""The limit of enqueueing: prebuilt bytes written to a raw connection, publisher confirms pipelined.

How it works: the window is the number of concurrent senders. One write starts it; each arrival of confirms is
answered by one write of as many messages as were confirmed. There are no tasks, futures or encoding, so only the
broker, the kernel and the parsing of confirms are left.

What belongs here: publishing at the limit, and filling queues with tasks that can be told apart.
"""

import asyncio
import time
from typing import Any

import wire
from bench_protocol import Command, LoopLag, resident_memory, task_id
from pamqp import commands

_ACK, _METHOD = b"\x00\x3c\x00\x50", 1  # basic.ack
_WARM_UP = 20
_CHUNK = 200


class _Pump(asyncio.Protocol):
    """Keeps a window of unconfirmed messages full."""

    def __init__(self) -> None:
        self._frames = wire.Frames()
        self._confirmed_to = 0  # every tag up to here is confirmed
        self._confirmed_above: set[int] = set()
        self._sent = 0
        self._message = b""
        self._begun = 0
        self._end = 0.0
        self._limit = 0
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the broker has closed the connection"))

    async def send(self, message: bytes, window: int, *, seconds: float = 0.0, count: int = 0) -> int:
        """Send for a time, or a number of messages; return how many were sent, all of them confirmed."""
        self._message, self._begun = message, self._sent
        self._end = time.perf_counter() + seconds if seconds else float("inf")
        self._limit = self._sent + count if count else 1 << 62
        self._done = asyncio.get_running_loop().create_future()
        self._write(min(window, count or window))
        await self._done
        return self._sent - self._begun

    async def send_once(self, messages: list[bytes]) -> None:
        """Send different messages at once; return when all are confirmed."""
        self._end = 0.0  # nothing is sent again
        self._done = asyncio.get_running_loop().create_future()
        self._sent += len(messages)
        self._transport.write(b"".join(messages))
        await self._done

    def _write(self, count: int) -> None:
        self._sent += count
        self._transport.write(self._message * count)

    def data_received(self, data: bytes) -> None:
        before = self._confirmed_to + len(self._confirmed_above)
        for kind, payload in self._frames.feed(data):
            if kind != _METHOD or payload[:4] != _ACK:
                self._transport.abort()  # a nack or a return: nothing after it would be a limit
                return
            self._confirm(int.from_bytes(payload[4:12], "big"), multiple=bool(payload[12] & 1))
        confirmed = self._confirmed_to + len(self._confirmed_above)
        if time.perf_counter() < self._end:
            more = min(confirmed - before, self._limit - self._sent)
            if more:
                self._write(more)
        if confirmed == self._sent and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _confirm(self, tag: int, *, multiple: bool) -> None:
        if multiple:
            self._confirmed_to = max(self._confirmed_to, tag)
            self._confirmed_above = {above for above in self._confirmed_above if above > tag}
        else:
            self._confirmed_above.add(tag)
        while self._confirmed_to + 1 in self._confirmed_above:
            self._confirmed_to += 1
            self._confirmed_above.remove(self._confirmed_to)


async def _pump(url: str) -> tuple[asyncio.Transport, _Pump]:
    connection = wire.amqp(url)
    wire.call(connection, commands.Confirm.Select(), commands.Confirm.SelectOk)
    connection.setblocking(False)
    return await asyncio.get_running_loop().create_connection(_Pump, sock=connection)


def enqueue(asked: Command) -> dict[str, Any]:
    """Do the enqueue row."""
    message = wire.Message(asked.queue).encode(task_id(1), 1)

    async def run() -> dict[str, Any]:
        transport, pump = await _pump(asked.broker)
        total = await pump.send(message, 1, count=_WARM_UP)
        levels = []
        for senders in asked.levels:
            begin, cpu = time.perf_counter(), time.process_time()
            async with LoopLag() as lag:
                sent = await pump.send(message, senders, seconds=asked.seconds)
                took, cpu = time.perf_counter() - begin, time.process_time() - cpu
            levels.append({"senders": senders, "sent": sent, "seconds": took, "cpu": cpu, "lag": lag.longest})
        transport.close()
        return {"levels": levels, "total": total + sum(level["sent"] for level in levels)}

    return asyncio.run(run())


def backlog(asked: Command) -> dict[str, Any]:
    """Do the row of many queued tasks; as `bench_protocol.backlog`."""
    message, window = wire.Message(asked.queue).encode(task_id(1), 1), asked.count // 10

    async def run() -> dict[str, Any]:
        transport, pump = await _pump(asked.broker)

        async def send(count: int) -> float:
            begin = time.perf_counter()
            await pump.send(message, 50, count=count)
            return count / (time.perf_counter() - begin)

        await send(1000)
        early, early_memory = await send(window), resident_memory()
        await send(asked.count - 1000 - 2 * window)
        late = await send(window)
        transport.close()
        memory = {"early_memory": early_memory, "late_memory": resident_memory()}
        return {"early": early, "late": late, **memory, "total": asked.count}

    return asyncio.run(run())


def fill(asked: Command) -> dict[str, Any]:
    """Queue `count` no-op tasks, each with its own number and id."""
    message = wire.Message(asked.queue, ignore_result=asked.ignore_result)

    async def run() -> None:
        transport, pump = await _pump(asked.broker)
        for first in range(0, asked.count, _CHUNK):
            numbers = range(first, min(first + _CHUNK, asked.count))
            await pump.send_once([message.encode(task_id(number), number) for number in numbers])
        transport.close()

    asyncio.run(run())
    return {"filled": asked.count}
