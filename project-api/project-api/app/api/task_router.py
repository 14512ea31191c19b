"""A router whose endpoints send tasks: each is registered twice, as itself and as its `/async` twin.

How it works: `@router.task("/path", Result)` registers `POST /path`, which waits as the client asks, and
`POST /path/async`, which answers 202 at once (`deps.get_reply` sees the suffix). Both share what is true of all
such endpoints: JSON bodies only, the same documented answers.

What belongs here: what all endpoints that send something have in common.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from starlette.responses import Response

from app.api.deps import require_json
from app.api.problems import documented
from app.api.replies import ASYNC_SUFFIX
from app.celery.schemas import AsyncTask, AsyncTaskStatus

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Response]])


def located(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI text for a 202 that says where to read the task."""
    return {
        202: {
            "model": model,
            "description": "accepted; read it at Location",
            "headers": {"Location": {"schema": {"type": "string"}, "description": "/v1/tasks/{id}"}},
        }
    }


class TaskRouter(APIRouter):
    """An APIRouter with `task`, a decorator for endpoints that end with `return await reply.deliver(handle)`."""

    def __init__(self, *, prefix: str, tags: list[str]) -> None:
        super().__init__(
            prefix=prefix,
            tags=[*tags],
            dependencies=[Depends(require_json)],
            responses=documented(400, 409, 413, 415, 422, 503) | located(AsyncTask),
        )

    def task(self, path: str, result: Any) -> Callable[[Endpoint], Endpoint]:
        """Register the endpoint under `path` and under `path/async`; `result` is its result's type."""

        def register(endpoint: Endpoint) -> Endpoint:
            name = endpoint.__name__
            self.post(
                path,
                response_model=AsyncTaskStatus[result],
                responses=documented(410, 502, 504),
            )(endpoint)
            self.post(
                path + ASYNC_SUFFIX,
                response_model=AsyncTask,
                status_code=202,
                name=f"{name}_async",
                summary=f"{name.replace('_', ' ').capitalize()}, without waiting",
            )(endpoint)
            return endpoint

        return register
