"""Ours: `AsyncCelery` of this repository, used as its README says.

How it works: one client per process around a Celery app that is configured as project-api configures its own.
Which state of the library runs is decided by the path alone (`STACK_BENCH_LIBRARY`).

What belongs here: our library's rows. The app of its worker is in `worker.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench_canvas import WARM_UP, canvases
from bench_protocol import (
    Command,
    LoopLag,
    backlog,
    become,
    command,
    enqueue,
    main,
    round_trips,
    wait_for_all,
)
from celery import Celery

from async_celery import AsyncCelery

ASKED = command()
_KEY = b"benchmark-benchmark"
_AT_ONCE = 1000  # sends; the client refuses those that would wait behind thousands of others


def _app() -> Celery:
    app = Celery("bench", broker=ASKED.broker, backend=ASKED.backend, set_as_current=False)
    app.conf.update(
        broker_transport_options={"confirm_publish": True},
        task_default_delivery_mode="persistent",
        task_create_missing_queue_type=ASKED.queue_type,
        redis_socket_keepalive=True,
    )
    return app


def _client(app: Celery | None = None) -> AsyncCelery:
    # The deadlines are wider than the defaults: on a loaded machine a row must end with a rate, not an error.
    return AsyncCelery(app or _app(), task_id_key=_KEY, publish_timeout=30.0, backend_timeout=30.0)


def _enqueue(asked: Command) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with _client() as client:
            return await enqueue(asked, lambda: client.send_task("noop", (1,), queue=asked.queue))

    return asyncio.run(run())


def _round_trip(asked: Command) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with _client() as client:

            async def call(number: int) -> Any:
                handle = await client.send_task("noop", (number,), queue=asked.queue)
                return await handle.result(asked.timeout)

            return await round_trips(asked, call)

    return asyncio.run(run())


def _wait(asked: Command) -> None:
    async def run() -> None:
        async with _client() as client:
            handles = {}
            for first in range(0, asked.count, _AT_ONCE):
                numbers = range(first, min(first + _AT_ONCE, asked.count))
                sends = (client.send_task("noop", (number,), queue=asked.queue) for number in numbers)
                handles |= {handle.id: handle for handle in await asyncio.gather(*sends)}
            await wait_for_all(asked, list(handles), lambda one: handles[one].result(asked.timeout))

    asyncio.run(run())


def _http(asked: Command) -> None:
    from bench_http import serve
    from fastapi import FastAPI

    clients: list[AsyncCelery] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with _client() as client:
            clients.append(client)
            yield

    async def post(one: int, other: int) -> str:
        return (await clients[0].send_task("noop", (one * other,), queue=asked.queue)).id

    serve(asked.port, post, lifespan)


def _workflows(asked: Command) -> dict[str, Any]:
    app = _app()

    async def run() -> dict[str, Any]:
        took, lags, correct = {}, {}, {}
        async with _client(app) as client:
            # Kept to the end, as Celery's results are: freeing one is not part of the next submit.
            handles = [await client.submit(canvas) for canvas, _ in canvases(app, asked.queue, WARM_UP).values()]
            for name, (canvas, expected) in canvases(app, asked.queue, asked.count).items():
                async with LoopLag() as lag:
                    begin = time.perf_counter()
                    handle = await client.submit(canvas)
                    took[name] = time.perf_counter() - begin
                handles.append(handle)
                lags[name] = lag.longest
                if asked.way == "checked":
                    correct[name] = await handle.result(asked.timeout) == expected
        return {"seconds": took, "lag": lags, "correct": correct}

    return asyncio.run(run())


def _backlog(asked: Command) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with _client() as client:
            return await backlog(asked, lambda: client.send_task("noop", (1,), queue=asked.queue))

    return asyncio.run(run())


def _worker(asked: Command) -> None:
    # Its pool is the app's (worker.py).
    words = ["-A", "worker:app", "worker", "-Q", asked.queue, "-c", str(asked.concurrency)]
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
            "backlog": _backlog,
            "worker": _worker,
        }
    )
