"""taskiq with taskiq-aio-pika (confirms on, persistent messages) and taskiq-redis; its defaults otherwise.

How it works: results are polled every 0.2 s, taskiq's default; the worker is taskiq's own, one process. Waiting
for one of its Redis connections has no deadline: with the default, 20 s, it fails at 10,000 waiters.

What belongs here: taskiq's rows.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench_protocol import (
    Command,
    become,
    command,
    enqueue,
    hear,
    main,
    paced,
    round_trips,
    say,
    task_id,
    wait_for_all,
)
from taskiq import AsyncTaskiqTask, TaskiqResult
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType
from taskiq_redis import RedisAsyncResultBackend

ASKED = command()
backend: RedisAsyncResultBackend[Any] = RedisAsyncResultBackend(ASKED.backend, timeout=None)
broker = AioPikaBroker(
    ASKED.broker,
    task_queues=[Queue(name=ASKED.queue, type=QueueType(ASKED.queue_type))],
    dead_letter_queue=Queue(name=f"{ASKED.queue}.dead", type=QueueType.CLASSIC),
).with_result_backend(backend)


@broker.task(task_name="noop")
async def noop(number: int = 0) -> int:
    """Return the argument."""
    return number


def _run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        await broker.startup()
        try:
            return await work()
        finally:
            await broker.shutdown()

    return asyncio.run(run())


def _enqueue(asked: Command) -> Any:
    return _run(lambda: enqueue(asked, lambda: noop.kiq(1)))


def _round_trip(asked: Command) -> Any:
    async def call(number: int) -> Any:
        task = await noop.kiq(number)
        return (await task.wait_result(timeout=asked.timeout)).return_value

    return _run(lambda: round_trips(asked, call))


def _wait(asked: Command) -> None:
    async def wait(one: str) -> Any:
        result = await AsyncTaskiqTask(one, backend).wait_result(timeout=asked.timeout)
        return result.return_value

    ids = [task_id(number) for number in range(asked.count)]
    asyncio.run(wait_for_all(asked, ids, wait))


def _publish(asked: Command) -> dict[str, Any]:
    """Store results as taskiq's worker does."""

    async def publish(ids: list[str]) -> None:
        for one in paced(ids, asked.pace):
            result = TaskiqResult(is_err=False, return_value=time.monotonic(), execution_time=0)
            await backend.set_result(one, result)

    say({"ready": True})
    ids = hear()["ids"]
    asyncio.run(publish(ids))
    return {"published": len(ids)}


def _fill(asked: Command) -> Any:
    async def fill() -> dict[str, Any]:
        for first in range(0, asked.count, 100):
            numbers = range(first, min(first + 100, asked.count))
            await asyncio.gather(*(noop.kicker().with_task_id(task_id(n)).kiq(n) for n in numbers))
        return {"filled": asked.count}

    return _run(fill)


def _check(asked: Command) -> Any:
    async def check() -> dict[str, Any]:
        results = [(await backend.get_result(task_id(n))).return_value for n in range(asked.count)]
        return {"correct": sum(result == n for n, result in enumerate(results))}

    return _run(check)


def _worker(_: Command) -> None:
    become("taskiq", "worker", "contender:broker", "--workers", "1", "--log-level", "WARNING")


if __name__ == "__main__":
    main(
        {
            "enqueue": _enqueue,
            "round-trip": _round_trip,
            "wait": _wait,
            "publish": _publish,
            "fill": _fill,
            "check": _check,
            "worker": _worker,
        }
    )
