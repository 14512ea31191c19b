"""The values that pass between this library's parts, and between it and its callers.

How it works: frozen dataclasses and enums. Two protocols are the seam between what a caller sees and how it gets
there: a `Broker` takes messages (`publisher.py` for AMQP, `threads.py` for the rest), a `Backend` keeps results
(`results.py` for Redis, `threads.py` for the rest). The URLs decide which; every pair works.

What belongs here: values and protocols without behaviour beyond their own (de)serialisation. No I/O, no Celery.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum, auto
from json.encoder import encode_basestring_ascii as _as_json
from typing import Any, NamedTuple, Protocol

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
        return self is TaskState.SUCCESS or self is TaskState.FAILURE or self is TaskState.REVOKED


class OnTimeout(Enum):
    """What becomes of a task whose result was not there in time."""

    REVOKE = auto()
    """It never starts; if it has started, it is stopped."""
    KEEP = auto()
    """It goes on, its result can be read later."""


@dataclass(frozen=True, kw_only=True)
class TaskErrorInfo:
    """Why a task failed, is retried or was revoked: the exception's class name and text.

    `code` is the exception's own name for what is wrong (its attribute `code`), where workers store it.
    """

    type: str
    message: str
    code: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskTimeline:
    """When a task's last run was published, due, received by a worker, started, finished, and stored.

    Each time is by the clock of the machine where it happened; None where workers do not store it. `due_at` is
    the end of a countdown, or of a retry's pause; None for what was to run at once.
    """

    published_at: datetime | None = None
    due_at: datetime | None = None
    received_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    stored_at: datetime | None = None


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
    timeline: TaskTimeline = TaskTimeline()
    children: tuple["TaskStatus", ...] = ()


class NodeKind(StrEnum):
    """What a node of a workflow is."""

    TASK = "task"
    CHAIN = "chain"
    GROUP = "group"
    CHORD = "chord"


class TaskNode(NamedTuple):
    """A task, or a workflow made of `children`. The id of a chain is its last task's, of a chord its body's.

    A tuple, because one is made for every task of a workflow.
    """

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

    def result_ids(self) -> Iterator[str]:
        """Yield the ids of the tasks whose results make up the result of this node."""
        match self.kind:
            case NodeKind.TASK:
                yield self.id
            case NodeKind.GROUP:
                for child in self.children:
                    yield from child.result_ids()
            case NodeKind.CHAIN | NodeKind.CHORD:
                yield from self.children[-1].result_ids()

    def to_json(self) -> str:
        """Return this tree as JSON. Written here, for it costs a fourth of what `json.dumps` of dicts does."""
        children = ", ".join([child.to_json() for child in self.children]) if self.children else ""
        return (
            f'{{"kind": {_as_json(self.kind)}, "id": {_as_json(self.id)}, "name": {_as_json(self.name)}, '
            f'"children": [{children}]}}'
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TaskNode":
        """Rebuild what `to_json` wrote."""
        return cls(
            kind=NodeKind(data["kind"]),
            id=data["id"],
            name=data["name"],
            children=tuple(cls.from_json(child) for child in data["children"]),
        )


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What is kept of a workflow under `task-record:{id}`: Celery itself stores no trace of its shape.

    No task of it starts after `deadline`.
    """

    accepted_at: datetime
    deadline: datetime
    tree: TaskNode

    def encode(self) -> str:
        """Return the record as JSON."""
        accepted_at, deadline = self.accepted_at.isoformat(), self.deadline.isoformat()
        return f'{{"accepted_at": "{accepted_at}", "deadline": "{deadline}", "tree": {self.tree.to_json()}}}'

    @classmethod
    def decode(cls, data: str | bytes) -> "TaskRecord":
        """Rebuild what `encode` returned.

        Raises:
            ValueError, KeyError, TypeError: `data` is no record.
        """
        value = json.loads(data)
        return cls(
            accepted_at=datetime.fromisoformat(value["accepted_at"]),
            deadline=datetime.fromisoformat(value["deadline"]),
            tree=TaskNode.from_json(value["tree"]),
        )


DEADLINES = "workflow-deadlines"
"""The Redis sorted set of the workflows that may not have ended, by when to look next, in s since 1970."""


def record_key(task_id: str) -> str:
    """Return the Redis key of a workflow's record."""
    return f"task-record:{task_id}"


def errbacks_key(task_id: str) -> str:
    """Return the Redis key that says that a failed task's errbacks were called."""
    return f"task-errbacks:{task_id}"


def attempts_key(task_id: str) -> str:
    """Return the Redis key under which the repeated runs of a task are counted."""
    return f"task-attempts:{task_id}"


HISTORY = "task-history"
"""The Redis stream with an entry for each finished task."""


PUBLISHED_AT = "x-published-at"
"""The header that says when a message was published, in s since 1970: a task's timeline begins with it."""


class TaskMessage(NamedTuple):
    """One task to publish; a tuple, because one is made for every send.

    `expires` is in s from now: past it the task never starts. With `expiration` the broker itself also drops the
    message by then, so that not even a worker with a wrong clock runs it. `countdown` is in s from now as well:
    the task does not start earlier. `priority` is the broker's, 0 to 255, None for the queue's default.
    """

    task_id: str
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    serializer: str = "json"
    expires: float = 3600.0  # s
    expiration: bool = False
    countdown: float | None = None  # s
    priority: int | None = None
    headers: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Publication:
    """One message as Celery's own code hands it to kombu: `Producer.publish(body, **options)`.

    `options` holds exchange, routing_key, serializer, compression, delivery_mode, declare (kombu entities),
    headers (a dict) and the AMQP properties (correlation_id, reply_to, priority, expiration in s, …).
    `task_id` is None for what is no task: a revoke.
    """

    task_id: str | None
    body: Any
    options: Mapping[str, Any]
    mandatory: bool = True


@dataclass(frozen=True, kw_only=True)
class BackendCall:
    """A call that Celery's own code makes to its result backend while it publishes a canvas, by its name."""

    method: str
    args: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A workflow, ready to be sent: first the backend learns `record` and `calls`, then the broker the rest."""

    record: TaskRecord
    calls: tuple[BackendCall, ...]
    publications: tuple[Publication, ...]


class Recorder(Protocol):
    """Lets Celery's own code turn canvases into messages, without any I/O (`recording.py`)."""

    async def canvas(
        self, canvas: Any, *, workflow_id: str, accepted_at: datetime, deadline: datetime
    ) -> Recording:
        """Freeze a canvas and record everything that publishing it takes. The canvas is left as it is.

        Raises:
            PayloadError: there is nothing to run in it, or it is no canvas.
        """


class Broker(Protocol):
    """How messages get out. Each call ends within its timeout, with a typed error."""

    async def publish(self, message: TaskMessage) -> None:
        """Publish one task; return when the broker has confirmed it.

        Raises:
            PublishError: it was not confirmed.
            PayloadError: it cannot be serialised.
        """

    async def publish_all(
        self, publications: Sequence[Publication], *, after: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Publish these; return when all are confirmed.

        Args:
            publications: what to publish.
            after: what must be done before the first of them leaves; they are made ready meanwhile.

        Raises:
            PublishError, PayloadError: as for `publish`, the first one met; others may be published.
            Exception: what `after` raises; nothing was published.
        """

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool) -> None:
        """Tell all workers not to start these tasks; with `terminate`, to stop them if they run.

        Raises:
            PublishError: the workers could not be told.
        """

    async def ping(self) -> None:
        """Make a round trip to the broker.

        Raises:
            PublishError: it did not answer.
        """

    async def aclose(self) -> None:
        """Let what is in flight end, then close every connection. May be repeated."""


HistoryRow = tuple[str, Mapping[str, str]]
"""An entry of the history as it is stored: its id in the stream, which says when, and its fields."""

Expectation = object
"""What `Backend.expect` returns; whoever has it misses no result."""


class Backend(Protocol):
    """How results get in. Each call but `follow` ends within its timeout, with a typed error."""

    def expect(self) -> Expectation:
        """Begin to listen, before tasks are published whose results may be wanted. Does no I/O, never fails.

        Hand what is returned to `follow`, which then knows what was pushed in between.
        """

    def follow(
        self, task_ids: Sequence[str], expectation: Expectation | None = None
    ) -> AsyncGenerator[list[tuple[str, Meta]]]:
        """Yield what is stored for these tasks, then every change, for ever; use `contextlib.aclosing`.

        Each item is a batch of (task id, what is stored now), in order; the first comes as soon as anything is
        stored. A backend that is down is waited for. `expectation` is from before the tasks were sent.
        """

    async def ending(
        self, task_id: str, expectation: Expectation | None = None, *, within: float | None = None
    ) -> Meta | None:
        """Wait until a task has ended, and return what is stored: what `follow` tells of it, for less.

        None when it has not ended within so many s.
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

    async def save(self, workflow_id: str, record: TaskRecord, calls: Sequence[BackendCall]) -> None:
        """Store a workflow's record, its group for Celery's own clients, and what `calls` asks for.

        A backend with a sweeper also notes the deadline, by which that one sees to it that the workflow ends.

        Raises:
            BackendError: the backend did not answer.
        """

    async def bury(self, task_ids: Sequence[str], *, terminate: bool) -> bool:
        """Write tombstones: no worker will start these tasks; with `terminate`, one that runs any stops it.

        Returns:
            Whether it did: False from a backend that workers do not ask, so that only a broadcast reaches them.

        Raises:
            BackendError: the backend did not answer.
        """

    async def mark_revoked(self, task_ids: Sequence[str]) -> None:
        """Store REVOKED for those of these tasks that have no state yet.

        Raises:
            BackendError: the backend did not answer.
        """

    async def history(self, *, since: str | None, before: str | None, count: int) -> list[HistoryRow]:
        """Return entries of the history, the newest first.

        Args:
            since: the id of the oldest that is wanted; None for no bound.
            before: the id of which all are older; None for no bound.
            count: how many at most.

        Raises:
            BackendError: the backend did not answer.
            Unsupported: it keeps no history.
        """

    async def note(self, times: Mapping[str, Mapping[str, float]]) -> None:
        """Keep, for as long as a result, when something happened to a task; what was noted first stays.

        Args:
            times: in s since 1970, by task id and what happened.

        Raises:
            BackendError: the backend did not answer.
            Unsupported: it keeps no such notes.
        """

    async def noted(self, task_id: str) -> dict[str, float]:
        """Return what was noted of a task; nothing, where nothing is kept.

        Raises:
            BackendError: the backend did not answer.
        """

    async def forget(self, task_ids: Sequence[str], *, record_of: str) -> None:
        """Delete these results and the record of `record_of`.

        Raises:
            BackendError: the backend did not answer.
        """

    async def ping(self) -> None:
        """Make a round trip to the result backend.

        Raises:
            BackendError: it did not answer.
        """

    async def aclose(self) -> None:
        """Let what is under way end, then close every connection. May be repeated."""
