"""Asking about tasks that were sent earlier, and cancelling them.

How it works: an id says by itself whether this stack issued it, so that an unknown id is 404, an accepted one
that nobody has started is QUEUED, and one past its deadline is 410 (see `async_celery.task_ids`).

What belongs here: endpoints under `/v1/tasks`.
"""

import contextlib
import re
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from app.api.deps import ClientDep, JournalDep, PatienceDep, ProducerDep, TaskIdDep
from app.api.problems import ShuttingDownError, TaskFinishedError, documented
from app.api.schemas.pages import Digits
from app.celery.history import Cursor, EndedTasks
from app.celery.schemas import AsyncTask, AsyncTaskStatus, TaskDocument
from app.celery.timeline import Timeline
from async_celery import OnTimeout, ResultTimeout, TaskError, TaskState

router = APIRouter(prefix="/tasks", tags=["tasks"])

STOPPING = 1.5  # s that a cancelled task gets to stop before the answer is 202
MAX_LONG_POLL = 60  # s; longer than that, proxies close the connection

# RFC 3339 §5.6. By itself pydantic would also take a bare number, in seconds or milliseconds as it sees fit.
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _date_time(text: str) -> str:
    if not _DATE_TIME.fullmatch(text):
        raise PydanticCustomError(
            "date_time", "give date, time and offset as in 2026-05-04T13:07:09Z; write the + of an offset as %2B"
        )
    return text


DateTime = Annotated[AwareDatetime, BeforeValidator(_date_time)]


@router.get("", responses=documented(400, 422, 501, 503))
async def list_ended_tasks(
    client: ClientDep,
    name: Annotated[
        str | None, Query(min_length=1, max_length=255, description="only tasks of this name")
    ] = None,
    status: Annotated[
        Literal["SUCCESS", "FAILURE", "REVOKED"] | None, Query(description="only tasks that ended so")
    ] = None,
    since: Annotated[DateTime | None, Query(description="stored then or later")] = None,
    until: Annotated[DateTime | None, Query(description="stored earlier")] = None,
    cursor: Annotated[Cursor | None, Query(description="the `cursor` of the page before")] = None,
    limit: Annotated[int, Field(ge=1, le=100), Digits, Query()] = 50,
) -> EndedTasks:
    """Tasks that have ended lately, the newest first: about the last 100,000, whoever sent them.

    A page is read backwards from the newest, or from `cursor`. Follow `cursor` until it is null: with a filter, a
    page in between may be short or empty.
    """
    page = await client.history(
        name=name,
        state=None if status is None else TaskState(status),
        since=since,
        until=until,
        cursor=cursor,
        limit=limit,
    )
    return EndedTasks.from_page(page)


@router.get("/{task_id}", responses=documented(404, 410, 422, 503))
async def get_task(
    task_id: TaskIdDep,
    producer: ProducerDep,
    patience: PatienceDep,
    journal: JournalDep,
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
    status = await handle.status()
    if status.state.is_final:
        journal.delivered(task_id)
    return TaskDocument.from_status(status)


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
async def get_result(task_id: TaskIdDep, producer: ProducerDep, journal: JournalDep) -> Response:
    """A task's result. Reading it twice gives the same answer."""
    try:
        with journal.delivery(task_id):
            result = await producer.handle(task_id).result(timeout=0, on_timeout=OnTimeout.KEEP)
    except ResultTimeout as running:
        accepted = AsyncTask(id=UUID(task_id), status=running.state)
        return JSONResponse(accepted.model_dump(mode="json"), 202, {"Retry-After": "1"})
    body = AsyncTaskStatus[Any](id=UUID(task_id), status=TaskState.SUCCESS, result=result)
    return JSONResponse(body.model_dump(mode="json"))


@router.get("/{task_id}/timeline", responses=documented(404, 410, 422, 503))
async def get_timeline(task_id: TaskIdDep, producer: ProducerDep) -> Timeline:
    """What happened to a task when, how long each step took, and where the time went in all: before its message
    was sent, in the queue, running, being stored, until a client was told; for a workflow, of its tasks, too.

    Each step is timed by the clock of the machine where it happened. What the API itself notes (accepted,
    confirmed, delivered) is there 0.1 s later, and can be missing after an outage of Redis.
    """
    handle = producer.handle(task_id)
    status = await handle.status()
    return Timeline.from_status(status, await handle.noted_times())
