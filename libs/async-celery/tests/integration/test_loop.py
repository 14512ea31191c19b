"""The loop stays free while tasks and workflows are sent, waited for and read.

How it works: beside the load a ticker wants its turn every 2 ms. It notes how much the loop's thread computed at
most between two of its turns, which says what this library does however busy the machine is, and by how much a
turn was late, which would also show a call that blocks. What a caller starts in one go is the caller's own time,
so the load comes from a few senders.

What belongs here: the limits in these tests that are times.
"""

import asyncio
import gc
import os
import time
from collections.abc import Iterator

import pytest
from celery import Celery, chord

from async_celery import AsyncCelery, OnTimeout, ResultTimeout, TaskHandle, TaskState

MAX_WORK = 0.02  # s of processor time
MAX_LAG = 0.03  # s
INTERVAL = 0.002  # s
ATTEMPTS = 5
# Recorded on the loop, it would take it some 60 ms.
HEADER = 500


async def watch_turns(stop: asyncio.Event) -> tuple[float, float]:
    """Until `stop`, watch the loop; return the longest work at one go and the longest lag, in s."""
    longest_work = longest_lag = 0.0
    while not stop.is_set():
        work, begin = time.thread_time(), time.monotonic()
        await asyncio.sleep(INTERVAL)
        longest_work = max(longest_work, time.thread_time() - work)
        longest_lag = max(longest_lag, time.monotonic() - begin - INTERVAL)
    return longest_work, longest_lag


@pytest.fixture
def small_heap() -> Iterator[None]:
    """Spare the garbage collector what earlier tests have left: it would look through that on the loop's time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("small_heap")
async def test_sending_waiting_and_reading_do_not_block_the_loop(
    client: AsyncCelery, celery_app: Celery, spare_queue: str
) -> None:
    add = celery_app.signature("add", args=(1, 1), queue=spare_queue)

    async def send(count: int) -> list[TaskHandle[object]]:
        return [await client.send_task("add", (n, n), queue=spare_queue, expires=30) for n in range(count)]

    async def wait(handle: TaskHandle[object]) -> None:
        with pytest.raises(ResultTimeout):
            await handle.result(timeout=1, on_timeout=OnTimeout.KEEP)

    async def submit() -> None:
        handle = await client.submit(chord([add] * HEADER, add), expires=30)
        assert (await client.handle(handle.id).status()).state is TaskState.QUEUED

    async def load() -> None:
        waited = await send(50)
        await asyncio.gather(*map(wait, waited), *(send(50) for _ in range(10)), submit())

    # The first of everything pays for connections and for Celery's imports.
    await send(1)
    await submit()
    # A machine with more to do than it has processors delays every loop; a call that blocks delays it every time.
    max_lag = MAX_LAG * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    seen: list[tuple[float, float]] = []
    for _ in range(ATTEMPTS):
        stop = asyncio.Event()
        watcher = asyncio.create_task(watch_turns(stop))
        await load()
        stop.set()
        seen.append(await watcher)
        work, lag = seen[-1]
        if work <= MAX_WORK and lag <= max_lag:
            break
    else:
        pytest.fail(f"the loop worked, and was late, by (s): {seen}; allowed are {MAX_WORK} and {max_lag}")
