"""dramatiq on RabbitMQ (pika; confirms on, persistent messages) with results in Redis, called from asyncio.

How it works: dramatiq is blocking, so a pool of 6 threads calls it, each thread with its own connection. Its
results wake their waiter (a blocking Redis pop). The worker is dramatiq's own: 2 processes.

What belongs here: dramatiq's rows.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
from bench_protocol import Command, become, command, enqueue, main, round_trips
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

_THREADS = 6

ASKED = command()


class _Broker(RabbitmqBroker):
    """dramatiq has no option for the queue type; this is where it makes the queue's arguments."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._build_queue_arguments(queue_name)
        return {**arguments, "x-queue-type": "quorum"} if ASKED.queue_type == "quorum" else arguments


broker = _Broker(url=ASKED.broker, confirm_delivery=True)
backend = RedisBackend(url=ASKED.backend)
broker.add_middleware(Results(backend=backend))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=ASKED.queue, store_results=True)
def noop(number: int = 0) -> int:
    """Return the argument."""
    return number


def _enqueue(asked: Command) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(_THREADS) as pool:
            return await enqueue(asked, lambda: loop.run_in_executor(pool, noop.send, 1))

    return asyncio.run(run())


def _round_trip(asked: Command) -> dict[str, Any]:
    def blocking(number: int) -> Any:
        return noop.send(number).get_result(block=True, timeout=int(asked.timeout * 1000))

    async def run() -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(_THREADS) as pool:
            return await round_trips(asked, lambda number: loop.run_in_executor(pool, blocking, number))

    return asyncio.run(run())


def _worker(asked: Command) -> None:
    become("dramatiq", "contender", "--processes", "2", "--threads", "1", "--queues", asked.queue)


if __name__ == "__main__":
    main({"enqueue": _enqueue, "round-trip": _round_trip, "worker": _worker})
