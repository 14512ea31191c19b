"""From what Celery stored to what a caller sees: states, errors, and the state of a workflow.

How it works: pure functions from stored results (`Meta`, plain JSON) to `TaskStatus`. Exceptions stay names and
texts: nothing is unpickled or rebuilt. The state of a workflow follows from its tree alone:

    its result is there (of a chain or chord the last child's, of a group every child's)    SUCCESS
    else any child FAILURE                                                                  FAILURE
    else any child REVOKED                                                                  REVOKED
    else any child has begun                                                                STARTED
    else                                                                                    QUEUED

Children that come after a failed or revoked one never ran. Celery stores an ending for them too, sometimes
another one (a revoked header fails its chord's body): it is an echo, and does not count.

What belongs here: the meaning of states. Reading and waiting are `handle.py`'s.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from async_celery.types import (
    Meta,
    NodeKind,
    TaskErrorInfo,
    TaskNode,
    TaskRecord,
    TaskState,
    TaskStatus,
    TaskTimeline,
)

_STATES = {
    # Known to Celery, but not yet begun.
    "PENDING": TaskState.QUEUED,
    "RECEIVED": TaskState.QUEUED,
    # Ended without a result.
    "REJECTED": TaskState.FAILURE,
    "IGNORED": TaskState.FAILURE,
    **{state.value: state for state in TaskState},
}
_RUN = ("published", "due", "received", "started", "finished")
_NO_TIMELINE = TaskTimeline()


def task_state(stored: str) -> TaskState:
    """Return what a stored state means; one that is not Celery's is one that a task reports while it runs."""
    return _STATES.get(stored, TaskState.PROGRESS)


def task_status(
    task_id: str, meta: Meta | None, *, accepted_at: datetime | None, name: str | None = None
) -> TaskStatus:
    """Return the status of one task; QUEUED when it has no result yet.

    Args:
        task_id: its id.
        meta: what Celery stored for it, None for nothing.
        accepted_at: when it was accepted, None when unknown.
        name: its name where a record knows it; Celery stores it only with `result_extended`.
    """
    if meta is None:
        return TaskStatus(id=task_id, name=name, state=TaskState.QUEUED, accepted_at=accepted_at)
    state = task_state(meta["status"])
    value = meta.get("result")
    worker = meta.get("worker")
    if state is TaskState.STARTED and isinstance(value, Mapping):
        worker = worker or value.get("hostname")
    return TaskStatus(
        id=task_id,
        name=name or meta.get("name"),
        state=state,
        accepted_at=accepted_at,
        finished_at=_time(meta.get("date_done")) if state.is_final else None,
        attempts=_attempts(meta),
        progress=value if state is TaskState.PROGRESS else None,
        worker=worker,
        result=value if state is TaskState.SUCCESS else None,
        error=_error(value) if state in (TaskState.FAILURE, TaskState.REVOKED, TaskState.RETRY) else None,
        timeline=_timeline(meta),
    )


def workflow_status(record: TaskRecord, metas: Mapping[str, Meta | None]) -> TaskStatus:
    """Return the status of a workflow with all its children.

    Args:
        record: its shape.
        metas: what Celery stored for its tasks, by id.
    """
    return _node_status(record.tree, metas, record.accepted_at)


def task_at_fault(status: TaskStatus) -> TaskStatus:
    """Return the task that made a failed or revoked workflow so: the first one, in the order of the tree.

    First, because Celery stores a failure also for everything that would have followed it.
    """
    for child in status.children:
        if child.state is status.state:
            return task_at_fault(child)
    return status


def is_stuck(status: TaskStatus) -> bool:
    """Return whether nothing of it is running: past its deadline, nothing of it will start any more either."""
    if status.children:
        return not status.state.is_final and all(is_stuck(c) or c.state.is_final for c in status.children)
    return status.state is TaskState.QUEUED


def _node_status(node: TaskNode, metas: Mapping[str, Meta | None], accepted_at: datetime) -> TaskStatus:
    if node.kind is NodeKind.TASK:
        return task_status(node.id, metas.get(node.id), accepted_at=accepted_at, name=node.name)
    children = tuple(_node_status(child, metas, accepted_at) for child in node.children)
    state = _workflow_state(node.kind, children)
    at_fault = next((c for c in children if c.state is state), None) if state is not TaskState.SUCCESS else None
    result: Any = None
    if state is TaskState.SUCCESS:
        is_group = node.kind is NodeKind.GROUP
        result = [child.result for child in children] if is_group else children[-1].result
    finished = [child.finished_at for child in children if child.finished_at is not None]
    return TaskStatus(
        id=node.id,
        name=node.name,
        state=state,
        accepted_at=accepted_at,
        finished_at=max(finished, default=None) if state.is_final else None,
        result=result,
        error=at_fault.error if at_fault and state.is_final else None,
        children=children,
    )


def _workflow_state(kind: NodeKind, children: tuple[TaskStatus, ...]) -> TaskState:
    states = {child.state for child in children}
    results = states if kind is NodeKind.GROUP else {children[-1].state}
    if results == {TaskState.SUCCESS}:
        return TaskState.SUCCESS
    for step in _steps(kind, children):
        for ending in (TaskState.FAILURE, TaskState.REVOKED):
            if ending in {child.state for child in step}:
                return ending
    return TaskState.QUEUED if states == {TaskState.QUEUED} else TaskState.STARTED


def _steps(kind: NodeKind, children: tuple[TaskStatus, ...]) -> list[tuple[TaskStatus, ...]]:
    """Return the children by the order in which they run: those of one step run beside each other."""
    if kind is NodeKind.GROUP:
        return [children]
    if kind is NodeKind.CHORD:
        return [children[:-1], children[-1:]]
    return [(child,) for child in children]


def _error(value: Any) -> TaskErrorInfo:
    """Read an exception as Celery's JSON backend stores it: its class's name and its arguments."""
    if not isinstance(value, Mapping):
        return TaskErrorInfo(type="Unknown", message=str(value))
    arguments = value.get("exc_message", "")
    if isinstance(arguments, list | tuple):
        arguments = ", ".join(str(argument) for argument in arguments)
    code = value.get("code")
    return TaskErrorInfo(
        type=str(value.get("exc_type", "Unknown")),
        message=str(arguments),
        code=code if isinstance(code, str) else None,
    )


def _attempts(meta: Meta) -> int | None:
    """Return how many runs have begun: as our workers count them, else as Celery counts its retries."""
    attempts, retries = meta.get("attempts"), meta.get("retries")
    if isinstance(attempts, int):
        return attempts
    return retries + 1 if isinstance(retries, int) else None


def _timeline(meta: Meta) -> TaskTimeline:
    run = meta.get("timeline")
    if not isinstance(run, Mapping):
        return _NO_TIMELINE
    times = {f"{what}_at": instant(run.get(what)) for what in _RUN}
    return TaskTimeline(**times, stored_at=instant(meta.get("stored")))


def instant(seconds: Any) -> datetime | None:
    """Return s since 1970 as a time; None for what is none."""
    if not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        # NaN, or beyond the calendar.
        return None


def _time(value: Any) -> datetime | None:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
