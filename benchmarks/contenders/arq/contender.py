"""arq: tasks and results both in Redis, no RabbitMQ, so nothing is confirmed or durable as the others are.

How it works: round trip and worker only. By default results and the queue are polled every 0.5 s, and a poll
takes 10 jobs; both poll every 10 ms here and take 100, in its favour. It needs redis-py below 6.

What belongs here: arq's rows.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from arq import ArqRedis, Worker, create_pool
from arq.connections import RedisSettings
from arq.jobs import Job
from bench_protocol import Command, command, main, round_trips, task_id

_POLL = 0.01  # s
_JOBS = 100

ASKED = command()


async def noop(_: dict[Any, Any], number: int = 0) -> int:
    """Return the argument."""
    return number


def _run(work: Callable[[ArqRedis], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        pool = await create_pool(RedisSettings.from_dsn(ASKED.backend), default_queue_name=ASKED.queue)
        try:
            return await work(pool)
        finally:
            await pool.aclose()

    return asyncio.run(run())


def _round_trip(asked: Command) -> Any:
    async def work(pool: ArqRedis) -> dict[str, Any]:
        async def call(number: int) -> Any:
            job = await pool.enqueue_job("noop", number)
            return await job.result(asked.timeout, poll_delay=_POLL)

        return await round_trips(asked, call)

    return _run(work)


def _fill(asked: Command) -> Any:
    async def fill(pool: ArqRedis) -> dict[str, Any]:
        for number in range(asked.count):
            await pool.enqueue_job("noop", number, _job_id=task_id(number))
        return {"filled": asked.count}

    return _run(fill)


def _check(asked: Command) -> Any:
    async def check(pool: ArqRedis) -> dict[str, Any]:
        jobs = (Job(task_id(number), pool, ASKED.queue) for number in range(asked.count))
        infos = [await job.result_info() for job in jobs]
        return {"correct": sum(info is not None and info.result == n for n, info in enumerate(infos))}

    return _run(check)


def _worker(asked: Command) -> None:
    settings = RedisSettings.from_dsn(asked.backend)
    asyncio.set_event_loop(asyncio.new_event_loop())  # arq takes the current loop
    Worker([noop], redis_settings=settings, queue_name=asked.queue, poll_delay=_POLL, max_jobs=_JOBS).run()


if __name__ == "__main__":
    main({"round-trip": _round_trip, "fill": _fill, "check": _check, "worker": _worker})
