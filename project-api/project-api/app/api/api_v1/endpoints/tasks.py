"""Asking about tasks that were sent earlier, and cancelling them.

How it works: an id says by itself whether this stack issued it, so that an unknown id is 404, an accepted one
that nobody has started is QUEUED, and one past its deadline is 410 (see `async_celery.task_ids`).

What belongs here: endpoints under `/v1/tasks`.
"""

import contextlib
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from starlette.responses import Response

from app.api.deps import PatienceDep, ProducerDep, TaskIdDep
from app.api.problems import ShuttingDownError, TaskFinishedError, documented
from app.celery.schemas import AsyncTask, AsyncTaskStatus, TaskDocument
from async_celery import OnTimeout, ResultTimeout, TaskError, TaskState

router = APIRouter(prefix="/tasks", tags=["tasks"])

STOPPING = 1.5  # s that a cancelled task gets to stop before the answer is 202
MAX_LONG_POLL = 60  # s; longer than that, proxies close the connection


@router.get("/{task_id}", responses=documented(404, 410, 422, 503))
async def get_task(
    task_id: TaskIdDep,
    producer: ProducerDep,
    patience: PatienceDep,
    wait: Annotated[
        float | None,
        Query(gt=0, le=MAX_LONG_POLL, allow_inf_nan=False, description="seconds to wait for the task's end"),
    ] = None,
) -> TaskDocument:
    """Everything that is known about a task or a workflow; with `wait`, as soon as it has ended."""
    handle = producer.handle(task_id)
    if wait is not None:
        # However the wait ends, the answer is the state as it is then.
        with contextlib.suppress(ResultTimeout, TaskError, ShuttingDownError):
            await patience.result(handle, wait, OnTimeout.KEEP)
    return TaskDocument.from_status(await handle.status())


@router.delete(
    "/{task_id}",
    responses=documented(404, 409, 410, 422, 503)
    | {202: {"model": TaskDocument, "description": "the worker has been told and has not stopped it yet"}},
)
async def cancel_task(task_id: TaskIdDep, producer: ProducerDep, response: Response) -> TaskDocument:
    """Cancel a task, or all that is unfinished of a workflow: queued never starts, running is stopped.

    Cancelling twice gives the same answer; a task that has ended otherwise is 409.
    """
    handle = producer.handle(task_id)
    if await handle.cancel():
        # What runs takes a moment to stop.
        with contextlib.suppress(ResultTimeout, TaskError):
            await handle.result(STOPPING, OnTimeout.KEEP)
    status = await handle.status()
    if status.state is not TaskState.REVOKED:
        if status.state.is_final:
            raise TaskFinishedError(task_id, status.state)
        response.status_code = 202
    return TaskDocument.from_status(status)


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
