"""Dead letters, as documents.

How it works: a task that could not be worked (it killed its worker again and again, its message cannot be read,
nobody knows its name) ends as FAILURE, and the worker's reaper parks its message until somebody deletes it or
sends it again. `async_celery.dead_letters` reads them; these are the models of `/v1/dead-letters`.

What belongs here: those models.
"""

from typing import Self

from pydantic import BaseModel, Field

from app.celery.instants import Instant
from app.celery.schemas import TaskFailure
from async_celery import TaskState
from async_celery.dead_letters import DeadLetter


class DeadLetterDocument(BaseModel):
    """A message that could not be worked, and why. What cannot be read in it is null."""

    id: str = Field(description="of the dead letter: the task's id where it can be read")
    task_id: str | None
    name: str | None = Field(description="the task's name")
    queue: str = Field(description="where it came from, and where a replay sends it")
    reason: str = Field(description="why the broker or the worker gave it up", examples=["rejected"])
    error: TaskFailure = Field(description="what its FAILURE says")
    died_at: Instant
    attempts: int | None = Field(description="runs that were begun")
    arguments: str | None = Field(description="its positional arguments as text, shortened")
    keyword_arguments: str | None = Field(description="its keyword arguments as text, shortened")
    content_type: str | None
    size: int = Field(description="of its body, in bytes")

    @classmethod
    def from_letter(cls, letter: DeadLetter) -> Self:
        """Translate the library's value into the API's document."""
        return cls(
            id=letter.id,
            task_id=letter.task_id,
            name=letter.name,
            queue=letter.queue,
            reason=letter.reason,
            error=TaskFailure.from_info(letter.error),
            died_at=letter.died_at,
            attempts=letter.attempts,
            arguments=letter.args_repr,
            keyword_arguments=letter.kwargs_repr,
            content_type=letter.content_type,
            size=letter.size,
        )


class DeadLetterList(BaseModel):
    """The dead letters, the oldest first."""

    dead_letters: list[DeadLetterDocument]
    more: bool = Field(description="whether there are others")


class DeletedDeadLetters(BaseModel):
    """How many dead letters are gone."""

    deleted: int


class ReplayedTask(BaseModel):
    """A task that was sent again; read it at the `Location` header's address."""

    id: str
    status: TaskState = Field(examples=[TaskState.QUEUED])
