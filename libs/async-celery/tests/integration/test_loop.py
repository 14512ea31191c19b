"""The loop stays free while threads send and wait."""

import asyncio
import os

import pytest
from celery import Celery, chord

from async_celery import AsyncCelery, OnTimeout, ResultTimeout, TaskHandle

MAX_LAG = 0.05  # s
INTERVAL = 0.002  # s
ATTEMPTS = 5


async def longest_lag(stop: asyncio.Event) -> float:
    """Return by how much the loop was ever late, in s, until `stop`."""
    loop = asyncio.get_running_loop()
    longest = 0.0
    while not stop.is_set():
        before = loop.time()
        await asyncio.sleep(INTERVAL)
        longest = max(longest, loop.time() - before - INTERVAL)
    return longest


async def test_sending_and_waiting_do_not_block_the_loop(
    client: AsyncCelery, celery_app: Celery, spare_queue: str
) -> None:
    async def load() -> None:
        waited = [await client.send_task("add", (1, 1), queue=spare_queue, expires=30) for _ in range(50)]

        async def wait(handle: TaskHandle[object]) -> None:
            with pytest.raises(ResultTimeout):
                await handle.result(timeout=1, on_timeout=OnTimeout.KEEP)

        add = celery_app.signature("add", args=(1, 1), queue=spare_queue)
        await asyncio.gather(
            *(wait(handle) for handle in waited),
            *(client.send_task("add", (n, n), queue=spare_queue, expires=30) for n in range(200)),
            client.submit(chord([add] * 100, add), expires=30),
        )

    # The first sends pay for Celery's imports and for 16 connections.
    await asyncio.gather(*(client.send_task("add", (n, n), queue=spare_queue, expires=30) for n in range(50)))
    lags: list[float] = []
    # A machine with more to do than it has processors delays every loop; a call that blocks delays it every time.
    allowed = MAX_LAG * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    for _ in range(ATTEMPTS):
        stop = asyncio.Event()
        ticker = asyncio.create_task(longest_lag(stop))
        await load()
        stop.set()
        lags.append(await ticker)
        if lags[-1] <= allowed:
            break
    assert min(lags) <= allowed, f"the loop was late by {lags} s"
