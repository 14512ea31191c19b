"""A network between a client and PostgreSQL that can fall silent: nothing arrives, nothing is closed.

What belongs here: the proxy. What a client does about it stands in the tests.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Hands bytes on, unless it has fallen silent: then it keeps them until it goes on."""

    def __init__(self, url: str) -> None:
        """Lead to the server of a URL."""
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = url
        self._open = asyncio.Event()
        self._open.set()

    def fall_silent(self) -> None:
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator["Proxy"]:
        """Run a proxy to the server of a URL; its own `url` leads through it."""
        proxy = cls(url)
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        address = (
            f"{proxy._parts.username}:{proxy._parts.password}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        )
        proxy.url = proxy._parts._replace(netloc=address).geturl()
        try:
            yield proxy
        finally:
            server.close()
            for task in proxy._tasks:
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._hand_on(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _hand_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                while data := await source.read(65536):
                    await self._open.wait()
                    target.write(data)
                    await target.drain()
        finally:
            target.close()
