"""The load generator of the HTTP row: keep-alive connections that each send the next request after the answer.

How it works: the request is one prebuilt piece of bytes, the answer is parsed as far as its status and length.
It runs in a process of its own, on the same machine, and takes the same share of it for every contender.

What belongs here: sending requests and counting answers.
"""

import asyncio
import re
import time
from typing import Any

from bench_protocol import Command

_BODY = b'{"multiplicand": 6, "multiplier": 7}'
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_WARM_UP = 0.5  # s; imports, connections and code paths of the server


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._rest = b""
        self._sent_at = 0.0
        self._end = 0.0
        self._done: asyncio.Future[None] | None = None
        self.latencies: list[float] = []
        self.refused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server has closed the connection"))

    async def run(self, seconds: float) -> None:
        """Send requests for a time; the last answer is waited for."""
        self._end = time.perf_counter() + seconds
        self._done = asyncio.get_running_loop().create_future()
        self._send()
        await self._done

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, found, body = self._rest.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if found else None
        if length is None or len(body) < int(length[1]):
            return
        self._rest = b""
        now = time.perf_counter()
        if head.startswith(b"HTTP/1.1 202 "):
            self.latencies.append(now - self._sent_at)
        else:
            self.refused += 1
        if now < self._end:
            self._send()
        elif self._done is not None and not self._done.done():
            self._done.set_result(None)


def load(asked: Command) -> dict[str, Any]:
    """Send for `seconds` over the first of `levels` connections."""
    lines = [
        f"POST {asked.path} HTTP/1.1",
        f"Host: 127.0.0.1:{asked.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(_BODY)}",
        "\r\n",
    ]
    request = "\r\n".join(lines).encode() + _BODY

    async def run() -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        clients = [
            (await loop.create_connection(lambda: _Client(request), "127.0.0.1", asked.port))[1]
            for _ in range(asked.levels[0])
        ]
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
        return {"seconds": took, "latencies": latencies, "refused": refused, "total": warm + len(latencies)}

    return asyncio.run(run())
