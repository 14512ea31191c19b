"""The sweeper: sees to it that every workflow has ended by its deadline, whatever happened to its parts.

How it works: a client notes each workflow and its deadline in a sorted set of Redis before it publishes it. Once
that has passed, no member of it starts any more (its `expires` has passed as well): each one that has no state
is REVOKED (`expired`). One that runs may go on until its time limit; if it has no end by then, its worker is
lost, and it is a FAILURE. A chord's body that was not sent by its deadline is ended like any other member, so
what was never aggregated in time is never aggregated in part. What has ended is taken out of the set.

Whatever ended in the meantime keeps its state: the first terminal one stays. So several sweepers do no harm, and
each step may be done again.

What belongs here: workflows past their deadline. Single tasks need none of it: their messages expire.
"""

import logging
import re
import time
from typing import TYPE_CHECKING, Any

from celery.app.task import Context

from async_celery.status import workflow_status
from async_celery.types import DEADLINES, Meta, TaskNode, TaskRecord, TaskState, record_key
from async_celery.worker.connection import PASSING

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

_AT_ONCE = 100
_LONGEST_SWEEP = 0.5  # s; dead letters wait meanwhile
_LOOK_AGAIN = 1.0  # s
# A task that has started just before its deadline shows so a little later.
_GRACE = 1.0  # s
# The time limit is that of the body; stopping and storing take a little more.
_MARGIN = 10.0  # s
_LIMIT_OF_UNLIMITED = 3600.0  # s
_STATE = re.compile(rb'^\{"status": ?"(\w+)"')
_STATES = {state.value: state for state in TaskState}


class TimeLimitPassed(Exception):  # noqa: N818 (the name that clients read)
    """A task that ran at its workflow's deadline has not ended by its time limit: its worker is lost."""


_LOST = TimeLimitPassed("it began in time, and has not ended within its time limit: its worker is lost")


class Sweeper:
    """Looks for workflows that are due."""

    def __init__(self, app: "Celery") -> None:
        """Take the workers' app. Opens no connection.

        Args:
            app: with the workers' tasks and time limits, for how long a member may run past the deadline.
        """
        self._app = app
        self._backend: Any = app.backend

    def sweep(self) -> None:
        """End what is due, for half a second at most.

        Raises:
            RedisError: Redis does not answer; the next sweep does the rest.
        """
        client = self._backend.client
        until = time.monotonic() + _LONGEST_SWEEP
        while True:
            due = client.zrange(DEADLINES, "-inf", time.time() - _GRACE, byscore=True, offset=0, num=_AT_ONCE)
            for workflow_id in due:
                try:
                    self._end(workflow_id.decode())
                except PASSING:
                    raise
                except Exception:
                    # Whatever is stored there: the others must have their turn.
                    logger.exception("Workflow %s cannot be ended", workflow_id)
                    client.zrem(DEADLINES, workflow_id)
                if time.monotonic() > until:
                    return
            if len(due) < _AT_ONCE:
                return

    def _end(self, workflow_id: str) -> None:
        """End what has not ended of a workflow; forget it when all of it has."""
        client = self._backend.client
        record = self._record(workflow_id)
        if record is not None and not self._has_ended(record):
            running = self._end_members(workflow_id, record)
            if running:
                # No others' `ZREM` is undone.
                client.zadd(DEADLINES, {workflow_id: time.time() + _LOOK_AGAIN - _GRACE}, xx=True)
                return
        client.zrem(DEADLINES, workflow_id)

    def _record(self, workflow_id: str) -> TaskRecord | None:
        stored = self._backend.client.get(record_key(workflow_id))
        if stored is None:
            return None
        try:
            return TaskRecord.decode(stored)
        except (ValueError, KeyError, TypeError) as exc:
            logger.warning("%s is no record of ours: %s", record_key(workflow_id), exc)
            return None

    def _has_ended(self, record: TaskRecord) -> bool:
        """Return whether a reader sees an end: often the last results tell, of thousands."""
        results = list(record.tree.result_ids())
        states = self._states(results)
        if len(states) == len(results) and all(state.is_final for state in states.values()):
            return True
        metas: dict[str, Meta] = {
            task_id: {"status": state}
            for task_id, state in self._states([leaf.id for leaf in record.tree.leaves()]).items()
        }
        return workflow_status(record, metas).state.is_final

    def _end_members(self, workflow_id: str, record: TaskRecord) -> bool:
        """End those that will not end by themselves; return whether any still runs."""
        leaves = list(record.tree.leaves())
        states = self._states([leaf.id for leaf in leaves])
        late = time.time() - record.deadline.timestamp()
        running = False
        for leaf in leaves:
            state = states.get(leaf.id, TaskState.QUEUED)
            if state.is_final:
                continue
            if state is TaskState.QUEUED:
                self._backend.mark_as_revoked(leaf.id, "expired", request=_request(leaf, workflow_id))
            elif late > self._longest_run(leaf.name):
                self._backend.mark_as_failure(leaf.id, _LOST, request=_request(leaf, workflow_id))
            else:
                running = True
                continue
            logger.warning("Task %s[%s] was %s when workflow %s was due", leaf.name, leaf.id, state, workflow_id)
        return running

    def _longest_run(self, name: str) -> float:
        """Return for how many s a task may show as running before its worker must be lost."""
        task = self._app.tasks.get(name)
        limits = (self._app.conf.task_time_limit, task and task.time_limit)
        return max((limit for limit in limits if limit), default=_LIMIT_OF_UNLIMITED) + _MARGIN

    def _states(self, task_ids: list[str]) -> dict[str, TaskState]:
        """Return the states of those that have one, without reading their results."""
        pipeline = self._backend.client.pipeline(transaction=False)
        for task_id in task_ids:
            pipeline.getrange(self._backend.get_key_for_task(task_id), 0, 31)
        begins = zip(task_ids, pipeline.execute(), strict=True)
        return {task_id: _state(begin) for task_id, begin in begins if begin}


def _state(begin: bytes) -> TaskState:
    """Return the state that a stored result begins with; one that is not Celery's own is a task's report."""
    match = _STATE.match(begin)
    return _STATES.get(match[1].decode() if match else "", TaskState.PROGRESS)


def _request(leaf: TaskNode, workflow_id: str) -> Context:
    """Return what the history is to say of a task that nobody has."""
    return Context(id=leaf.id, task=leaf.name, root_id=workflow_id)
