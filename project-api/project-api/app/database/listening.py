"""Hears what PostgreSQL passes on (NOTIFY).

How it works: a connection of its own, outside of the pool, that does nothing but listen. What is announced while
there is none is missed: whoever listens looks for himself when the connection stands, and now and then.

What belongs here: that connection.
"""

import asyncio
from collections.abc import Callable

import asyncpg

from project_database.errors import DatabaseUnavailable
from project_database.sessions import translate

APPLICATION_NAME = "project-api relay"
"""What `pg_stat_activity` shows."""

_PROBE_INTERVAL = 10  # s; a server that vanished without a word is noticed then


async def listen(
    url: str,
    channel: str,
    hear: Callable[[], object],
    *,
    timeout: float,  # noqa: ASYNC109  # of each answer, not of the whole
) -> None:
    """Call `hear` once the connection stands, and at every notification; go on until cancelled.

    Args:
        url: the database's, without a driver.
        channel: what to listen to.
        hear: what to call.
        timeout: in s, for connecting and for one answer.

    Raises:
        DatabaseUnavailable: there is no connection, or none any more.
    """
    with translate(OSError, TimeoutError):
        connection = await asyncpg.connect(
            url,
            timeout=timeout,
            command_timeout=timeout,
            server_settings={"application_name": APPLICATION_NAME},
        )
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(channel, lambda *_: hear())
            hear()
            while not lost.is_set():
                try:
                    async with asyncio.timeout(_PROBE_INTERVAL):
                        await lost.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")
        finally:
            connection.terminate()  # without the farewell, which a frozen server would delay
    raise DatabaseUnavailable("PostgreSQL closed the connection that listens")
