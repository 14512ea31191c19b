"""aio-celery: a Celery-compatible client and worker on aio-pika (confirms on, persistent messages).

How it works: results are polled every 0.5 s by default; the round trip asks every 10 ms, in its favour, because
0.5 s would measure nothing else. It declares its queue without arguments, so on a quorum queue, which the harness
has declared, its own declaration is skipped; its worker cannot skip it and has no quorum row.

What belongs here: aio-celery's rows.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aio_celery import Celery
from bench_protocol import Command, become, command, enqueue, main, round_trips

_POLL = 0.01  # s

ASKED = command()
app = Celery()
app.conf.update(broker_url=ASKED.broker, result_backend=ASKED.backend, result_backend_connection_pool_size=50)


@app.task(name="noop")
async def noop(number: int = 0) -> int:
    """Return the argument."""
    return number


def _run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with app.setup():
            app.broker._already_declared_queues.add(ASKED.queue)
            return await work()

    return asyncio.run(run())


def _enqueue(asked: Command) -> Any:
    return _run(lambda: enqueue(asked, lambda: app.send_task("noop", args=(1,), queue=asked.queue)))


def _round_trip(asked: Command) -> Any:
    async def call(number: int) -> Any:
        result = await app.send_task("noop", args=(number,), queue=asked.queue)
        return await result.get(asked.timeout, _POLL)

    return _run(lambda: round_trips(asked, call))


def _worker(asked: Command) -> None:
    become("aio_celery", "worker", "contender:app", "-Q", asked.queue, "-l", "WARNING")


if __name__ == "__main__":
    main({"enqueue": _enqueue, "round-trip": _round_trip, "worker": _worker})
