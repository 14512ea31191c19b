"""The FastAPI application of the HTTP row: the same route for every way of sending.

How it works: POST with a small body, validated by a model, answered 202 with the task's id. `empty` sends
nothing, so it is the most that FastAPI and uvicorn can do here. uvicorn runs as in production: uvloop,
httptools, one process, no access log; and what was made until then is hidden from the garbage collector.

What belongs here: the route. How a task is sent is the contender's.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import uvicorn
from bench_protocol import settle
from fastapi import FastAPI
from pydantic import BaseModel


class Multiplication(BaseModel):
    """The request."""

    multiplicand: int
    multiplier: int


class Accepted(BaseModel):
    """The answer."""

    task_id: str


def serve(
    port: int,
    send: Callable[[int, int], Awaitable[str]],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> None:
    """Serve until SIGTERM.

    Args:
        port: On loopback.
        send: sends the task and returns its id.
        lifespan: Opens and closes the client.
    """

    @asynccontextmanager
    async def settled(app: FastAPI) -> AsyncIterator[None]:
        async with nullcontext() if lifespan is None else lifespan(app):
            settle()
            yield

    app = FastAPI(lifespan=settled)

    @app.post("/", status_code=202)
    async def post(request: Multiplication) -> Accepted:
        return Accepted(task_id=await send(request.multiplicand, request.multiplier))

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
