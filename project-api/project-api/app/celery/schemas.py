"""Generic answers about asynchronous tasks, whatever the task.

- `AsyncTask` returns the id of a task that goes on.
- `AsyncTaskStatus` returns a finished wait: id, status, result.
- `TaskDocument` is all that is known about a task or a workflow, its children included.

What belongs here: models that no single task owns. A task's payload and result are in `project_contracts`.
"""

from datetime import datetime
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field

from async_celery import TaskErrorInfo, TaskState, TaskStatus

R = TypeVar("R")


class AsyncTask(BaseModel):
    """A task that was accepted and goes on; read it at the `Location` header's address."""

    id: UUID
    status: TaskState = Field(examples=[TaskState.QUEUED])


class AsyncTaskStatus(BaseModel, Generic[R]):
    """A task that has succeeded, with its result."""

    id: UUID
    status: TaskState = Field(examples=[TaskState.SUCCESS])
    result: R


class TaskFailure(BaseModel):
    """Why a task failed: the exception's type and message, never its traceback."""

    type: str = Field(examples=["ValueError"])
    message: str
    code: str | None = Field(description="the error's own name for what is wrong, where it has one")

    @classmethod
    def from_info(cls, info: TaskErrorInfo) -> Self:
        """Translate the library's value into the API's."""
        return cls(type=info.type, message=info.message, code=info.code)


class TaskDocument(BaseModel):
    """All that is known about a task. What is not (yet) known is null."""

    id: UUID
    name: str | None
    status: TaskState
    accepted_at: datetime | None
    finished_at: datetime | None
    attempts: int | None = Field(description="runs begun so far, retries and redeliveries included")
    progress: Any = Field(description="what the running task last said about itself")
    worker: str | None
    result: Any
    error: TaskFailure | None
    children: list["TaskDocument"] = Field(description="a workflow's tasks, in their order")

    @classmethod
    def from_status(cls, status: TaskStatus) -> Self:
        """Translate the library's value into the API's document."""
        return cls(
            id=UUID(status.id),
            name=status.name,
            status=status.state,
            accepted_at=status.accepted_at,
            finished_at=status.finished_at,
            attempts=status.attempts,
            progress=status.progress,
            worker=status.worker,
            result=status.result,
            error=None if status.error is None else TaskFailure.from_info(status.error),
            children=[cls.from_status(child) for child in status.children],
        )
