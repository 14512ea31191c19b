"""The fast worker: a bare asyncio consumer of Celery tasks that stores results as Celery's Redis backend does.

How it works: per task the same two round trips to Redis: GET, which finds out whether there is a result already,
then MULTI, SETEX, PUBLISH, EXEC. What arrives together, from either side, is answered with one write; a task is
acknowledged when its result is stored. It takes the worker's slowness out of the clients' round trips.

What belongs here: consuming tasks, storing results, and checking what was stored.
"""

import asyncio
import json
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import hiredis
import wire
from bench_protocol import Command, hear, paced, say, settle, task_id
from pamqp import commands, frame

_PREFETCH = 200
_CHUNK = 1000
_DELIVER = b"\x00\x3c\x00\x3c"  # basic.deliver
_METHOD, _HEADER, _BODY = 1, 2, 3
_ID = re.compile(rb"\x02idS\x00\x00\x00\x24(.{36})", re.DOTALL)  # the header `id`, a long string of 36 bytes
_ANSWERS = 4  # of Redis to storing a result


@dataclass(slots=True)
class _Task:
    """A delivered task; `answers` counts those of Redis."""

    tag: int
    id: str
    number: int
    answers: int = 0


class _Store(asyncio.Protocol):
    """Redis' side: looks, stores, and acknowledges to the broker what it has stored. Answers come in order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._asked: deque[_Task] = deque()  # one entry per answer that is still to come
        self.broker: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def run(self, tasks: list["_Task"]) -> None:
        """Execute tasks that do nothing but return their argument."""
        self._asked.extend(tasks)
        self._transport.write(b"".join(hiredis.pack_command(("GET", wire.key(task.id))) for task in tasks))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        writes, acks = [], []
        while (answer := self._reader.gets()) is not False:
            if isinstance(answer, hiredis.ReplyError):
                raise answer
            task = self._asked.popleft()
            task.answers += 1
            if task.answers == 1 and answer is None:
                writes.append(wire.store(task.id, task.number))
                self._asked.extend([task] * _ANSWERS)
            elif task.answers in (1, 1 + _ANSWERS):  # it was stored before, or is now
                acks.append(frame.marshal(commands.Basic.Ack(task.tag, False), wire.CHANNEL))
        if writes:
            self._transport.write(b"".join(writes))
        if acks and self.broker is not None:
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
        tasks = []
        for kind, payload in self._frames.feed(data):
            if kind == _METHOD and payload[:4] == _DELIVER:
                at = 5 + payload[4]  # after the consumer's tag, a short string
                self._tag = int.from_bytes(payload[at : at + 8], "big")
            elif kind == _HEADER:
                found = _ID.search(payload)
                self._task_id = found[1].decode() if found else ""
            elif kind == _BODY:
                (number, *_), _, _ = json.loads(payload)
                tasks.append(_Task(self._tag, self._task_id, number))
        if tasks:
            self._store.run(tasks)


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
        settle()
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
        keys = (wire.key(task_id(number)) for number in numbers)
        (stored,) = wire.ask(connection, hiredis.pack_command(("MGET", *keys)), answers=1)
        assert isinstance(stored, list)
        for number, text in zip(numbers, stored, strict=True):
            meta = json.loads(text) if text else {}
            correct += meta.get("status") == "SUCCESS" and meta.get("result") == number
    return {"correct": correct}
