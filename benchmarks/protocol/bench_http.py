"""The FastAPI application of the HTTP row: the same route for every way of sending.

How it works: POST with a small body, validated by a model, answered 202 with the task's id. `empty` sends
nothing, so it is the most that FastAPI and uvicorn can do here. uvicorn runs as in production: uvloop,
httptools, one process, no access log.

What belongs here: the route. How a task is sent is the contender's.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import uvicorn
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
    app = FastAPI(lifespan=lifespan)

    @app.post("/", status_code=202)
    async def post(request: Multiplication) -> Accepted:
        return Accepted(task_id=await send(request.multiplicand, request.multiplier))

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
