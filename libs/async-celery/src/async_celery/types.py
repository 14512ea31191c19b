"""The values that pass between this library's parts, and between it and its callers.

How it works: frozen dataclasses and enums; `Transport` is the seam that every way of talking to broker and
backend implements (`threads.py` today).

What belongs here: values and protocols without behaviour beyond their own (de)serialisation. No I/O, no Celery.
"""

import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum, auto
from typing import Any, Protocol

Meta = Mapping[str, Any]
"""A task's result as Celery stores it: `status`, `result`, `date_done`, and `name`, `retries`, … if extended."""


class TaskState(StrEnum):
    """What a task or a workflow is doing."""

    QUEUED = "QUEUED"
    STARTED = "STARTED"
    PROGRESS = "PROGRESS"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow this state."""
        return self in (TaskState.SUCCESS, TaskState.FAILURE, TaskState.REVOKED)


class OnTimeout(Enum):
    """What becomes of a task whose result was not there in time."""

    REVOKE = auto()
    """It never starts; if it has started, it is stopped."""
    KEEP = auto()
    """It goes on, its result can be read later."""


@dataclass(frozen=True, kw_only=True)
class TaskErrorInfo:
    """Why a task failed, is retried or was revoked: the exception's class name and text."""

    type: str
    message: str


@dataclass(frozen=True, kw_only=True)
class TaskStatus:
    """One look at a task or a workflow.

    `name` is the task's, or `chain`, `group`, `chord` for a workflow. `attempts` counts runs begun, from 1.
    `progress` is what the task last reported with the state PROGRESS. `children` are a workflow's members in the
    order in which they were written; a chord's last child is its body. All times are aware, in UTC.
    """

    id: str
    name: str | None = None
    state: TaskState
    accepted_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int | None = None
    progress: Any = None
    worker: str | None = None
    result: Any = None
    error: TaskErrorInfo | None = None
    children: tuple["TaskStatus", ...] = ()


class NodeKind(StrEnum):
    """What a node of a workflow is."""

    TASK = "task"
    CHAIN = "chain"
    GROUP = "group"
    CHORD = "chord"


@dataclass(frozen=True, kw_only=True)
class TaskNode:
    """A task, or a workflow made of `children`. The id of a chain is its last task's, of a chord its body's."""

    kind: NodeKind
    id: str
    name: str
    children: tuple["TaskNode", ...] = ()

    def leaves(self) -> Iterator["TaskNode"]:
        """Yield the tasks of this tree, in the order in which they were written."""
        if self.kind is NodeKind.TASK:
            yield self
        for child in self.children:
            yield from child.leaves()

    def to_json(self) -> dict[str, Any]:
        """Return this tree as plain lists and dicts."""
        return {
            "kind": self.kind,
            "id": self.id,
            "name": self.name,
            "children": [child.to_json() for child in self.children],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TaskNode":
        """Rebuild what `to_json` returned."""
        return cls(
            kind=NodeKind(data["kind"]),
            id=data["id"],
            name=data["name"],
            children=tuple(cls.from_json(child) for child in data["children"]),
        )


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What is kept of a workflow under `task-record:{id}`: Celery itself stores no trace of its shape."""

    accepted_at: datetime
    tree: TaskNode

    def encode(self) -> str:
        """Return the record as JSON."""
        return json.dumps({"accepted_at": self.accepted_at.isoformat(), "tree": self.tree.to_json()})

    @classmethod
    def decode(cls, data: str | bytes) -> "TaskRecord":
        """Rebuild what `encode` returned.

        Raises:
            ValueError, KeyError, TypeError: `data` is no record.
        """
        value = json.loads(data)
        return cls(
            accepted_at=datetime.fromisoformat(value["accepted_at"]), tree=TaskNode.from_json(value["tree"])
        )


@dataclass(frozen=True, kw_only=True)
class TaskMessage:
    """One task to publish. `expires` is in seconds from now; past it the task never starts."""

    task_id: str
    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: str
    serializer: str = "json"
    expires: float  # s
    headers: Mapping[str, Any] = field(default_factory=dict)


class Transport(Protocol):
    """How messages get out and results get in. Each call ends within its timeout, with a typed error."""

    async def publish(self, message: TaskMessage) -> None:
        """Publish one task; return when the broker has confirmed it.

        Raises:
            PublishError: it was not confirmed.
            PayloadError: it cannot be serialised.
        """

    async def publish_canvas(
        self, canvas: Any, *, workflow_id: str, accepted_at: datetime, deadline: datetime
    ) -> TaskRecord:
        """Freeze a workflow, store its record, publish it; return when everything is confirmed.

        Raises:
            PublishError, BackendError, PayloadError: as for `publish`; part of the workflow may be published.
        """

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool) -> None:
        """Tell all workers not to start these tasks; with `terminate`, to stop them if they run.

        Raises:
            PublishError: the workers could not be told.
        """

    async def mark_revoked(self, task_ids: Sequence[str]) -> None:
        """Store REVOKED for those of these tasks that have no state yet.

        Raises:
            BackendError: the backend did not answer.
        """

    async def read(self, task_id: str) -> tuple[Meta | None, TaskRecord | None]:
        """Return a task's stored result and record, None for what does not exist.

        Raises:
            BackendError: the backend did not answer.
        """

    async def read_many(self, task_ids: Sequence[str]) -> list[Meta | None]:
        """Return the stored results in the order of `task_ids`, None for what does not exist.

        Raises:
            BackendError: the backend did not answer.
        """

    def changes(self, task_id: str) -> AsyncGenerator[None]:
        """Yield at once, then whenever it is worth reading this task or workflow again; for ever."""

    async def forget(self, task_ids: Sequence[str], *, record_of: str) -> None:
        """Delete these results and the record of `record_of`.

        Raises:
            BackendError: the backend did not answer.
        """

    async def ping_broker(self) -> None:
        """Make a round trip to the broker.

        Raises:
            PublishError: it did not answer.
        """

    async def ping_backend(self) -> None:
        """Make a round trip to the result backend.

        Raises:
            BackendError: it did not answer.
        """

    async def aclose(self) -> None:
        """Let what is in flight end, then close every connection."""
