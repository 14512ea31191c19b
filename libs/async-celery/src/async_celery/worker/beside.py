"""Redis beside an event loop: the commands of all tasks that run on it, over one connection.

How it works: with the pool `asyncio`, hundreds of tasks ask and store at the same time. What they say in one
turn of the event loop is written together, and each waits for nothing but its own reply. So that no call needs
a timer of its own, one timer looks whether the oldest call is still the same: then the server hangs, and the
connection is dropped.

What belongs here: gathering. Connections are `resp.py`'s, who waits is `connection.py`'s.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from async_celery.resp import Address, Command, Commands, Connection, OnMessage

_HANGS = "the server hangs"


class GatheringConnection(Connection):
    """One that writes once in each turn of the event loop."""

    def __init__(self, on_message: OnMessage | None = None) -> None:
        super().__init__(on_message)
        self.look_every = 1.0
        """How often, in s, it is looked whether it answers."""
        self._oldest: object = None
        self._timer: asyncio.TimerHandle | None = None
        self._unwritten: list[bytes] = []

    @property
    def is_hung(self) -> bool:
        """Whether it was dropped because nothing came."""
        return self._reason == _HANGS

    def _write(self, data: bytes) -> None:
        if not self._unwritten:
            self._loop.call_soon(self._flush)
            if self._timer is None:
                self._wait_for(self._calls[0])
        self._unwritten.append(data)

    def _flush(self) -> None:
        self._transport.write(b"".join(self._unwritten))
        self._unwritten.clear()

    def _wait_for(self, oldest: object) -> None:
        self._oldest = oldest
        self._timer = self._loop.call_later(self.look_every, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._calls:
            if self._calls[0] is self._oldest:
                self.abort(_HANGS)
            else:
                self._wait_for(self._calls[0])


class SharedCommands(Commands):
    """Commands of many at once."""

    def __init__(self, address: Address, *, timeout: float) -> None:
        """Remember where Redis is; connects when first asked. `timeout` is in s, for each call."""
        super().__init__(address, timeout=timeout)
        self._look_every = timeout / 2

    def ask(self, *commands: Command) -> Awaitable[list[Any]]:
        """Send commands together; await their replies.

        Raises (awaited):
            hiredis.ReplyError: an error for an answer.
            ConnectionError: the connection was lost over them, before or after they were carried out.
            BackendError: as a call, where there was no connection.
        """
        connection = self._connection
        if connection is None or connection.lost.done():
            return self(*commands)
        return connection.call(*commands)

    @property
    def is_hung(self) -> bool:
        """Whether the last connection was dropped because nothing came."""
        return isinstance(self._connection, GatheringConnection) and self._connection.is_hung

    async def _open(self) -> Connection:
        connection = await GatheringConnection.open(self._address)
        connection.look_every = self._look_every
        return connection
