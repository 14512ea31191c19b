"""Celery itself, in the three ways in which it is called from asyncio; and Celery's own worker.

`reference` is what the original project does: asgiref's `sync_to_async` (all calls share one thread), a Redis
result backend (whose `send_task` subscribes to the result, which the way has to pay for), publisher confirms, and
for results a loop around the blocking `ready()` with pauses from 0.1 s, times 1.5, up to 2 s, then `get` and
`forget`. `blocking` calls `send_task` on the loop. `thread pool` uses `asyncio.to_thread`: the default executor,
cores + 4 threads. The worker runs under Celery's own command line.

What belongs here: everything that runs on Celery's own client and worker.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import sync_to_async
from bench_canvas import WARM_UP, canvases
from bench_protocol import Command, become, command, enqueue, main, round_trips, wait_for_all
from celery import Celery
from celery.result import AsyncResult
from kombu import Exchange, Queue

_PAUSE, _GROWTH, _LONGEST_PAUSE = 0.1, 1.5, 2.0  # s, factor, s: the original's back-off

ASKED = command()
app = Celery("bench", broker=ASKED.broker, backend=ASKED.backend, set_as_current=False)
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_default_delivery_mode="persistent",
    task_ignore_result=ASKED.ignore_result,
    worker_send_task_events=ASKED.events,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    task_queues=[
        Queue(
            ASKED.queue,
            Exchange(""),
            routing_key=ASKED.queue,
            durable=True,
            queue_arguments={"x-queue-type": "quorum"} if ASKED.queue_type == "quorum" else None,
        )
    ],
)


@app.task(name="noop")
def noop(number: int = 0) -> int:
    """Return the argument."""
    return number


@app.task(name="increment")
def increment(number: int) -> int:
    """Return the next number: the link of a chain."""
    return number + 1


@app.task(name="total")
def total(numbers: list[int]) -> int:
    """Return the sum: the body of a chord."""
    return sum(numbers)


def _send(number: int) -> AsyncResult:
    return app.send_task("noop", (number,), queue=ASKED.queue)


def _sender() -> Callable[[int], Awaitable[AsyncResult]]:
    if ASKED.way == "blocking":

        async def blocking(number: int) -> AsyncResult:
            return _send(number)

        return blocking
    if ASKED.way == "thread pool":
        return lambda number: asyncio.to_thread(_send, number)
    return sync_to_async(_send)


async def _result(result: AsyncResult) -> Any:
    if ASKED.way == "thread pool":
        return await asyncio.to_thread(result.get, ASKED.timeout)
    pause = _PAUSE
    while not result.ready():  # blocks the loop, as the original does
        await asyncio.sleep(pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
    value = await sync_to_async(result.get)(ASKED.timeout)
    result.forget()
    return value


def _enqueue(asked: Command) -> dict[str, Any]:
    send = _sender()
    return asyncio.run(enqueue(asked, lambda: send(1)))


def _round_trip(asked: Command) -> dict[str, Any]:
    send = _sender()

    async def call(number: int) -> Any:
        return await _result(await send(number))

    return asyncio.run(round_trips(asked, call))


def _wait(asked: Command) -> None:
    ids = [str(uuid.uuid4()) for _ in range(asked.count)]
    asyncio.run(wait_for_all(asked, ids, lambda one: _result(AsyncResult(one, app=app))))


def _http(asked: Command) -> None:
    from bench_http import serve

    send = _sender()

    async def post(one: int, other: int) -> str:
        if asked.way == "empty":
            return "00000000-0000-4000-8000-000000000000"
        return str((await send(one * other)).id)

    serve(asked.port, post)


def _workflows(asked: Command) -> dict[str, Any]:
    # Kept to the end: a result that Python frees unsubscribes itself, which is not part of the next submit.
    results = [canvas.apply_async() for canvas, _ in canvases(app, asked.queue, WARM_UP).values()]
    took, correct = {}, {}
    for name, (canvas, expected) in canvases(app, asked.queue, asked.count).items():
        begin = time.perf_counter()
        result = canvas.apply_async()
        took[name] = time.perf_counter() - begin
        results.append(result)
        if asked.way == "checked":
            correct[name] = result.get(timeout=asked.timeout) == expected
    return {"seconds": took, "correct": correct}


def _worker(asked: Command) -> None:
    words = ["-A", "contender:app", "worker", "-Q", asked.queue, "-P", asked.pool, "-c", str(asked.concurrency)]
    words += ["--prefetch-multiplier", str(asked.prefetch)]
    words += ["-n", f"{asked.queue}@%h", "-l", "WARNING", "--without-gossip", "--without-mingle"]
    become("celery", *words, *(["-E"] if asked.events else []))


if __name__ == "__main__":
    main(
        {
            "enqueue": _enqueue,
            "round-trip": _round_trip,
            "wait": _wait,
            "http": _http,
            "workflows": _workflows,
            "worker": _worker,
        }
    )
