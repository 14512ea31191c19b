"""The floor of waiting: a bare Redis pub/sub connection that is told of every result.

How it works: one PSUBSCRIBE for all results, an asyncio protocol that parses with hiredis. What lies between the
publisher's clock and this process' next line is Redis, the kernel and the loop; no library can be faster.

What belongs here: that one listener.
"""

import asyncio
import json
import time
import uuid

import hiredis
import wire
from bench_protocol import Command, say


class _Listener(asyncio.Protocol):
    def __init__(self, count: int) -> None:
        self._reader = hiredis.Reader()
        self._count = count
        self.delays: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            if isinstance(answer, list) and answer[0] == b"pmessage":
                self.delays.append(time.monotonic() - float(json.loads(answer[3])["result"]))
        if len(self.delays) == self._count and not self.done.done():
            self.done.set_result(None)


def wait(asked: Command) -> None:
    """Hear `count` results."""

    async def run() -> None:
        connection = wire.redis(asked.backend)
        wire.ask(connection, hiredis.pack_command(("PSUBSCRIBE", "celery-task-meta-*")), answers=1)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        _, listener = await loop.create_connection(lambda: _Listener(asked.count), sock=connection)
        say({"ready": True, "ids": [str(uuid.uuid4()) for _ in range(asked.count)]})
        async with asyncio.timeout(asked.timeout):
            await listener.done
        say({"delays": listener.delays})

    asyncio.run(run())
