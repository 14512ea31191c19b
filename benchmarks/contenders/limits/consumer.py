"""The fast worker: a bare asyncio consumer of Celery tasks that stores results as Celery's Redis backend does.

How it works: each arrival of messages becomes one write to Redis (MULTI, SETEX, PUBLISH, EXEC per task); each
arrival of answers from Redis becomes one write of acknowledgements. It is the most that a Python worker can do on
one core, and takes the worker's slowness out of the clients' round trips.

What belongs here: consuming tasks, storing results, and checking what was stored.
"""

import asyncio
import json
import re
import time
from collections import deque
from typing import Any

import hiredis
import wire
from bench_protocol import Command, hear, paced, say, task_id
from pamqp import commands, frame

_PREFETCH = 200
_CHUNK = 1000
_DELIVER = b"\x00\x3c\x00\x3c"  # basic.deliver
_METHOD, _HEADER, _BODY = 1, 2, 3
_ID = re.compile(rb"\x02idS\x00\x00\x00\x24(.{36})", re.DOTALL)  # the header `id`, a long string of 36 bytes
_ANSWERS = 4  # of Redis per task


class _Store(asyncio.Protocol):
    """Redis' side: what it has stored is acknowledged to the broker, in the same order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._answers = 0
        self.unstored: deque[int] = deque()
        self.broker: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            if isinstance(answer, hiredis.ReplyError):
                raise answer
            self._answers += 1
        stored, self._answers = divmod(self._answers, _ANSWERS)
        acks = [
            frame.marshal(commands.Basic.Ack(self.unstored.popleft(), False), wire.CHANNEL) for _ in range(stored)
        ]
        if self.broker is not None:
            self.broker.write(b"".join(acks))


class _Consumer(asyncio.Protocol):
    """The broker's side: what it delivers is executed and written to Redis."""

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._frames = wire.Frames()
        self._tag, self._task_id = 0, ""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._store.broker = transport

    def connection_lost(self, _: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        writes = []
        for kind, payload in self._frames.feed(data):
            if kind == _METHOD and payload[:4] == _DELIVER:
                at = 5 + payload[4]  # after the consumer's tag, a short string
                self._tag = int.from_bytes(payload[at : at + 8], "big")
            elif kind == _HEADER:
                found = _ID.search(payload)
                self._task_id = found[1].decode() if found else ""
            elif kind == _BODY:
                (number, *_), _, _ = json.loads(payload)
                self._store.unstored.append(self._tag)
                writes.append(wire.store(self._task_id, number))
        if writes:
            self._store.transport.write(b"".join(writes))


def worker(asked: Command) -> None:
    """Consume the queue until the process is ended."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        redis = wire.redis(asked.backend)
        redis.setblocking(False)
        _, store = await loop.create_connection(_Store, sock=redis)
        connection = wire.amqp(asked.broker)
        wire.call(connection, commands.Basic.Qos(0, _PREFETCH, False), commands.Basic.QosOk)
        connection.setblocking(False)
        transport, consumer = await loop.create_connection(lambda: _Consumer(store), sock=connection)
        transport.write(frame.marshal(commands.Basic.Consume(queue=asked.queue), wire.CHANNEL))
        await consumer.closed

    asyncio.run(run())


def publish(asked: Command) -> dict[str, Any]:
    """Store and announce results at a steady pace, each with the clock at which it was published."""
    connection = wire.redis(asked.backend)
    say({"ready": True})
    ids = hear()["ids"]
    for one in paced(ids, asked.pace):
        wire.ask(connection, wire.store(one, time.monotonic()), answers=_ANSWERS)
    return {"published": len(ids)}


def check(asked: Command) -> dict[str, Any]:
    """Count the tasks whose stored result is their argument."""
    connection = wire.redis(asked.backend)
    correct = 0
    for first in range(0, asked.count, _CHUNK):
        numbers = range(first, min(first + _CHUNK, asked.count))
        keys = (f"celery-task-meta-{task_id(number)}" for number in numbers)
        (stored,) = wire.ask(connection, hiredis.pack_command(("MGET", *keys)), answers=1)
        assert isinstance(stored, list)
        for number, text in zip(numbers, stored, strict=True):
            meta = json.loads(text) if text else {}
            correct += meta.get("status") == "SUCCESS" and meta.get("result") == number
    return {"correct": correct}
