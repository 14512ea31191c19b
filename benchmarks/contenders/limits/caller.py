"""The limit of round trips: prebuilt messages out, results heard on one bare Redis connection.

How it works: each caller is a coroutine that awaits its message's confirm and its task's result, as any
client's callers do. Between them and the servers is nothing but a dictionary of futures. A message is built
once; its id and its number, which are of one length, are put in. What a round trip costs beyond this is the
library's; what this costs is the broker's, Redis', the worker's and asyncio's, on the same cores.

What belongs here: calling at the limit.
"""

import asyncio
import json
import secrets
from typing import Any

import hiredis
import wire
from bench_protocol import Command, round_trips
from publisher import Awaited, connected

_FIRST = 1_000_000  # numbers from here on are of one length


class _Results(asyncio.Protocol):
    """Resolves futures by the channel on which a result is announced."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self.waiting: dict[bytes, asyncio.Future[Any]] = {}

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            if isinstance(answer, list) and answer[0] == b"pmessage":
                self.waiting.pop(answer[2]).set_result(json.loads(answer[3])["result"])


def round_trip(asked: Command) -> dict[str, Any]:
    """Do the round-trip row."""

    async def run() -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        redis = wire.redis(asked.backend)
        wire.ask(redis, hiredis.pack_command(("PSUBSCRIBE", wire.key("*"))), answers=1)
        redis.setblocking(False)
        transport, results = await loop.create_connection(_Results, sock=redis)
        publisher = await connected(asked.broker, Awaited())
        # Of results that are there already the worker would store none.
        ids = secrets.token_hex(4) + "-0000-4000-8000-%012x"
        some = ids % _FIRST
        message = wire.Message(asked.queue).encode(some, _FIRST)
        before, _, after = message.partition(b"[[%d" % _FIRST)

        async def call(number: int) -> int:
            mine = ids % number
            future = results.waiting[wire.key(mine).encode()] = loop.create_future()
            frames = b"%s[[%d%s" % (before.replace(some.encode(), mine.encode()), _FIRST + number, after)
            await publisher.send(frames)
            result: int = await future
            return result - _FIRST

        answer = await round_trips(asked, call)
        publisher.transport.close()
        transport.close()
        return answer

    return asyncio.run(run())
