"""Asking about tasks that were sent earlier.

How it works: an id says by itself whether this stack issued it, so that an unknown id is 404, an accepted one
that nobody has started is QUEUED, and one past its deadline is 410 (see `async_celery.task_ids`).

What belongs here: endpoints under `/v1/tasks`.
"""

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.responses import Response

from app.api.deps import ProducerDep, TaskIdDep
from app.api.problems import documented
from app.celery.schemas import AsyncTask, AsyncTaskStatus, TaskDocument
from async_celery import OnTimeout, ResultTimeout, TaskState

router = APIRouter(prefix="/tasks", tags=["tasks"])


@router.get("/{task_id}", responses=documented(404, 410, 422, 503))
async def get_task(task_id: TaskIdDep, producer: ProducerDep) -> TaskDocument:
    """Everything that is known about a task or a workflow."""
    return TaskDocument.from_status(await producer.handle(task_id).status())


@router.get(
    "/{task_id}/result",
    response_model=AsyncTaskStatus[Any],
    responses=documented(404, 409, 410, 422, 502, 503)
    | {202: {"model": AsyncTask, "description": "still running; ask again after Retry-After seconds"}},
)
async def get_result(task_id: TaskIdDep, producer: ProducerDep) -> Response:
    """A task's result. Reading it twice gives the same answer."""
    try:
        result = await producer.handle(task_id).result(timeout=0, on_timeout=OnTimeout.KEEP)
    except ResultTimeout as running:
        accepted = AsyncTask(id=UUID(task_id), status=running.state)
        return JSONResponse(accepted.model_dump(mode="json"), 202, {"Retry-After": "1"})
    body = AsyncTaskStatus[Any](id=UUID(task_id), status=TaskState.SUCCESS, result=result)
    return JSONResponse(body.model_dump(mode="json"))
