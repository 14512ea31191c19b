"""What could not be worked: looking at it, sending it again, deleting it.

How it works: the worker's reaper parks a dead message in the queue `dead-letters`, where it stays until it is
deleted or replayed here. Its task has ended as FAILURE by then; a replay takes that back and sends the message as
it was, under the same id.

What belongs here: endpoints under `/v1/dead-letters`.
"""

from contextlib import suppress
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from app.api.deps import DeadLettersDep
from app.api.problems import documented
from app.api.schemas.pages import Digits
from app.api.task_router import located
from app.celery.dead_letters import DeadLetterDocument, DeadLetterList, DeletedDeadLetters, ReplayedTask
from app.core import context
from async_celery import TaskState

router = APIRouter(prefix="/dead-letters", tags=["dead letters"])

DeadLetterId = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._:@-]{0,254}$", description="a dead letter's id")
]


@router.get("", responses=documented(422, 503))
async def list_dead_letters(
    dead_letters: DeadLettersDep, limit: Annotated[int, Field(ge=1, le=100), Digits, Query()] = 50
) -> DeadLetterList:
    """The oldest dead letters."""
    found = await dead_letters.list(limit=limit + 1)
    return DeadLetterList(
        dead_letters=[DeadLetterDocument.from_letter(letter) for letter in found[:limit]],
        more=len(found) > limit,
    )


@router.delete("", responses=documented(422, 503))
async def delete_all_dead_letters(
    dead_letters: DeadLettersDep,
    confirm: Annotated[Literal["all"], Query(description="says that it is meant: nothing brings them back")],  # noqa: ARG001
) -> DeletedDeadLetters:
    """Delete all dead letters."""
    return DeletedDeadLetters(deleted=await dead_letters.delete_all())


@router.get("/{letter_id}", responses=documented(404, 422, 503))
async def get_dead_letter(letter_id: DeadLetterId, dead_letters: DeadLettersDep) -> DeadLetterDocument:
    """A dead letter."""
    return DeadLetterDocument.from_letter(await dead_letters.get(letter_id))


@router.delete("/{letter_id}", status_code=204, responses=documented(404, 422, 503))
async def delete_dead_letter(letter_id: DeadLetterId, dead_letters: DeadLettersDep) -> None:
    """Delete a dead letter. Its task stays FAILURE."""
    await dead_letters.delete(letter_id)


@router.post("/{letter_id}/replay", status_code=202, responses=documented(404, 422, 503) | located(ReplayedTask))
async def replay_dead_letter(
    letter_id: DeadLetterId, dead_letters: DeadLettersDep, response: Response
) -> ReplayedTask:
    """Send a dead letter's task again, under its id and with all its attempts; the dead letter is gone then."""
    task_id = await dead_letters.replay(letter_id)
    with suppress(ValueError):  # another producer's task may have an id under which nothing is found here
        response.headers["Location"] = f"/v1/tasks/{UUID(task_id)}"
        context.note_task(task_id)
    return ReplayedTask(id=task_id, status=TaskState.QUEUED)
