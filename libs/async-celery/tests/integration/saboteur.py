"""A TCP proxy that cuts a connection at a byte, delays it, and counts.

How it works: bytes are passed on as they come. Once armed by `cut_after`, exactly so many more are passed on in
that direction, and then both ends are reset: a cut towards the client takes confirms away that the broker has
given.

What belongs here: breaking connections at a chosen place. `conftest.Proxy` refuses and swallows them.
"""

import asyncio


class Saboteur:
    """A proxy on loopback; `port` is where it listens once it is open.

    Attributes: `connections`, how many were accepted; `cuts`, how many were cut; `delay` in s, of everything in
    either direction.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: dict[bool, int] = {}
        self._cut = asyncio.Event()
        self.port = 0
        self.connections = 0
        self.cuts = 0
        self.delay = 0.0

    @property
    def is_used(self) -> bool:
        """Whether a connection is open."""
        return bool(self._tasks)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut_after(self, size: int, *, to_broker: bool) -> None:
        """Return when a connection has been cut after `size` more bytes in that direction."""
        self._cut.clear()
        self._left = {to_broker: size}
        async with asyncio.timeout(10):
            await self._cut.wait()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            out_reader, out_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()  # as without a proxy: nobody listens
            return
        both = (writer, out_writer)
        for source, sink, to_broker in ((reader, out_writer, True), (out_reader, writer, False)):
            task = asyncio.create_task(self._forward(source, sink, both, to_broker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, ...],
        to_broker: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await source.read(65536):
                if to_broker in self._left and len(data) > self._left[to_broker]:
                    sink.write(data[: self._left.pop(to_broker)])
                    await sink.drain()
                    self.cuts += 1
                    self._cut.set()
                    break
                if to_broker in self._left:
                    self._left[to_broker] -= len(data)
                if self.delay:
                    loop.call_later(self.delay, sink.write, data)
                else:
                    sink.write(data)
        except OSError:
            pass  # cut by the other direction
        finally:
            for stream in both:
                stream.transport.abort()
