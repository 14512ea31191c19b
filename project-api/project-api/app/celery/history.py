"""Tasks that have ended, as a list: the models of `GET /v1/tasks`.

What belongs here: those models. Reading is the library's (`async_celery.history`).
"""

from typing import Annotated, Self

from pydantic import BaseModel, Field, WithJsonSchema

from app.celery.instants import Instant
from async_celery import HistoryEntry, HistoryPage, TaskState

Cursor = Annotated[
    str,
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,19}-[0-9]{1,19}$", "examples": ["1777900029123-0"]}),
]
"""Where a page ended. What is none is refused when it is used (400), not by its type (422): it is opaque."""


class EndedTask(BaseModel):
    """A task that has ended. What is not known is null; the times are of its last run."""

    id: str
    root_id: str | None = Field(description="the workflow it was part of; null for a task by itself")
    name: str | None
    status: TaskState = Field(examples=[TaskState.SUCCESS])
    queue: str | None
    worker: str | None
    attempts: int | None = Field(description="runs that were begun")
    error: str | None = Field(description="the type of the error that ended it", examples=["ValueError"])
    published_at: Instant | None
    received_at: Instant | None
    started_at: Instant | None
    finished_at: Instant | None
    stored_at: Instant = Field(description="when its result was stored: what the list is ordered by")

    @classmethod
    def from_entry(cls, entry: HistoryEntry) -> Self:
        """Translate the library's value into the API's."""
        return cls(
            id=entry.id,
            root_id=entry.root_id,
            name=entry.name,
            status=entry.state,
            queue=entry.queue,
            worker=entry.worker,
            attempts=entry.attempts,
            error=entry.error,
            published_at=entry.published_at,
            received_at=entry.received_at,
            started_at=entry.started_at,
            finished_at=entry.finished_at,
            stored_at=entry.stored_at,
        )


class EndedTasks(BaseModel):
    """A page of the history, the newest first."""

    tasks: list[EndedTask]
    cursor: Cursor | None = Field(
        description="where to go on; null at the end. One request looks at 5000 entries at most: with a filter a "
        "page may hold fewer tasks than `limit`, or none, and there are others all the same while this is set"
    )

    @classmethod
    def from_page(cls, page: HistoryPage) -> Self:
        """Translate the library's value into the API's."""
        return cls(tasks=[EndedTask.from_entry(entry) for entry in page.entries], cursor=page.cursor)
