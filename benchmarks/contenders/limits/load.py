"""The load generator of the HTTP rows: keep-alive connections that each send the next request after the answer.

How it works: requests are prebuilt bytes, or bytes around a number that is another one in each request; the
answer is parsed as far as its status and length. Where every answer must be the same, each is compared with the
first one, whose digest is told. It runs in a process of its own, on the same machine, and takes the same share
of it for every contender.

What belongs here: sending requests and counting answers.
"""

import asyncio
import hashlib
import itertools
import re
import time
from collections.abc import Iterator
from typing import Any

from bench_protocol import Command

NUMBER = "NUMBER"
"""What stands in a body for its number, whose digits are as many in every request."""

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_WARM_UP = 0.5  # s; imports, connections and code paths of the server


class _Client(asyncio.Protocol):
    """One connection. `answer` is what every answer must be; None until the first one has come."""

    def __init__(self, requests: Iterator[bytes], expected: int, *, is_same: bool) -> None:
        self._requests = requests
        self._status = f"HTTP/1.1 {expected} ".encode()
        self._is_same = is_same
        self._rest = b""
        self._sent_at = 0.0
        self._end = 0.0
        self._done: asyncio.Future[None] | None = None
        self.answer: bytes | None = None
        self.latencies: list[float] = []
        self.refused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server has closed the connection"))

    async def run(self, seconds: float) -> None:
        """Send requests for a time, at least one; the last answer is waited for."""
        self._end = time.perf_counter() + seconds
        self._done = asyncio.get_running_loop().create_future()
        self._send()
        await self._done

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self.transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, found, body = self._rest.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if found else None
        if length is None or len(body) < int(length[1]):
            return
        self._rest = b""
        now = time.perf_counter()
        if self.answer is None:
            self.answer = body
        if head.startswith(self._status) and (body == self.answer or not self._is_same):
            self.latencies.append(now - self._sent_at)
        else:
            self.refused += 1
        if now < self._end:
            self._send()
        elif self._done is not None and not self._done.done():
            self._done.set_result(None)


def _requests(asked: Command, path: str) -> Iterator[bytes]:
    body = asked.body.replace(NUMBER, str(asked.first)).encode()
    if body:
        head = [f"POST {path} HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    else:
        head = [f"GET {path} HTTP/1.1"]
    request = "\r\n".join([*head, f"Host: 127.0.0.1:{asked.port}", "\r\n"]).encode()
    if NUMBER not in asked.body:
        return itertools.repeat(request + body)
    before, _, after = asked.body.encode().partition(NUMBER.encode())
    return (b"%s%s%d%s" % (request, before, number, after) for number in itertools.count(asked.first))


async def _connected(asked: Command, path: str, *, is_same: bool, connections: int) -> list[_Client]:
    loop, requests = asyncio.get_running_loop(), _requests(asked, path)

    def client() -> _Client:
        return _Client(requests, asked.expected, is_same=is_same)

    made = (loop.create_connection(client, "127.0.0.1", asked.port) for _ in range(connections))
    return [client for _, client in await asyncio.gather(*made)]


def _digests(clients: list[_Client]) -> list[str]:
    return sorted({hashlib.sha256(client.answer or b"").hexdigest() for client in clients})


def load(asked: Command) -> dict[str, Any]:
    """Send for `seconds` over the first of `levels` connections; answers to GET must all be the same."""

    async def run() -> dict[str, Any]:
        is_same = not asked.body
        clients = await _connected(asked, asked.path, is_same=is_same, connections=asked.levels[0])
        await asyncio.gather(*(client.run(min(_WARM_UP, asked.seconds)) for client in clients))
        warm = sum(len(client.latencies) for client in clients)
        for client in clients:
            client.latencies.clear()
        begin = time.perf_counter()
        await asyncio.gather(*(client.run(asked.seconds) for client in clients))
        took = time.perf_counter() - begin
        for client in clients:
            client.transport.close()
        latencies = [latency for client in clients for latency in client.latencies]
        refused = sum(client.refused for client in clients)
        answer = {"seconds": took, "latencies": latencies, "refused": refused, "total": warm + len(latencies)}
        return {**answer, "answers": _digests(clients) if is_same else []}

    return asyncio.run(run())


def alternate(asked: Command) -> dict[str, Any]:
    """GET each of `paths` by turns, one request at a time, `count` times."""

    async def run() -> dict[str, Any]:
        clients = [
            client
            for path in asked.paths
            for client in await _connected(asked, path, is_same=True, connections=1)
        ]
        for client in clients:
            await client.run(_WARM_UP)
            client.latencies.clear()
        for _ in range(asked.count):
            for client in clients:
                await client.run(0)
        for client in clients:
            client.transport.close()
        return {
            "latencies": [client.latencies for client in clients],
            "refused": sum(client.refused for client in clients),
        }

    return asyncio.run(run())
