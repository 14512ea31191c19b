"""Handles: what the caller keeps of a task or a workflow that was sent.

How it works: a handle is an id, the transport to ask, and the function that turns the JSON result into `R`. It
reads state in one order (`status`): the stored results; the record, which gives a workflow its shape; and, for a
task that has neither, what its id says. Waiting is reading again whenever the transport says it is worth it.

What belongs here: reading, waiting, cancelling, forgetting one task or workflow. What the stored values mean
stands in `status.py`; how they are fetched, in the transport.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeAlias, TypeVar

from async_celery.errors import (
    BackendError,
    PublishError,
    ResultTimeout,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TaskRevoked,
)
from async_celery.status import is_stuck, task_at_fault, task_status, workflow_status
from async_celery.types import OnTimeout, TaskRecord, TaskState, TaskStatus, Transport

R = TypeVar("R")

# Ids carry whole seconds, so a task may have up to one more than its id says.
_ID_RESOLUTION = timedelta(seconds=1)
# A wait that has timed out looks once more before it revokes, and answers within 200 ms of its deadline even
# when the backend does not.
_LAST_LOOK = 0.2  # s


class TaskHandle(Generic[R]):
    """One accepted task or workflow; made by `AsyncCelery`. It holds no connection and needs no closing."""

    def __init__(
        self,
        task_id: str,
        *,
        transport: Transport,
        convert: Callable[[Any], R],
        accepted_at: datetime | None,
        task_deadline: timedelta,
        record: TaskRecord | None = None,
    ) -> None:
        self.id = task_id
        self._transport = transport
        self._convert = convert
        self._accepted_at = accepted_at
        self._task_deadline = task_deadline
        self._record = record

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def status(self) -> TaskStatus:
        """Return the state as it is now, with every child for a workflow.

        Raises:
            TaskNotFound: nothing is stored, and the id is not one this client accepted.
            TaskExpired: it was accepted, but has not finished by its deadline and will not start any more.
            BackendError: the result backend did not answer.
        """
        meta = None
        if self._record is None:
            meta, self._record = await self._transport.read(self.id)
        if self._record is not None:
            ids = self._task_ids()
            metas = dict(zip(ids, await self._transport.read_many(ids), strict=True))
            status = workflow_status(self._record, metas)
        elif meta is None and self._accepted_at is None:
            raise TaskNotFound(self.id)
        else:
            status = task_status(self.id, meta, accepted_at=self._accepted_at)
        if is_stuck(status) and self._is_past_deadline(status.accepted_at):
            raise TaskExpired(self.id)
        return status

    async def result(
        self,
        timeout: float,  # noqa: ASYNC109 (it also revokes, which `asyncio.timeout` around it would not)
        on_timeout: OnTimeout = OnTimeout.REVOKE,
    ) -> R:
        """Wait for the result and return it, as what `result_type` makes of it.

        A failing child ends the wait for a workflow at once. A backend that does not answer does not: it may be
        back before the deadline.

        Args:
            timeout: in s.
            on_timeout: whether a task that is not done by then is revoked (the default), or goes on.

        Raises:
            ResultTimeout: it was not there in time.
            TaskFailed: the task, or a child of the workflow, raised; or the result is not a `result_type`.
            TaskRevoked: it was cancelled, or expired before it started.
            TaskNotFound, TaskExpired: as for `status`.
        """
        seen = await self._wait(timeout)
        now: TaskStatus | None = None
        if not (seen and seen.state.is_final):
            # What came in the last pause is a result, not a timeout.
            with contextlib.suppress(TimeoutError, BackendError):
                async with asyncio.timeout(_LAST_LOOK):
                    now = await self.status()
        latest = now or seen
        if latest and latest.state.is_final:
            return self._unwrap(latest)
        revoked = False
        if on_timeout is OnTimeout.REVOKE:
            # The caller learns from `revoked` when the workers could not be told.
            with contextlib.suppress(PublishError):
                await self._revoke(self._unfinished(latest), terminate=True, mark=now is not None)
                revoked = True
        state = latest.state if latest else TaskState.QUEUED
        raise ResultTimeout(task_id=self.id, state=state, timeout=timeout, revoked=revoked)

    async def cancel(self, *, terminate: bool = True) -> bool:
        """Revoke the task, or everything of the workflow that is not finished.

        What has not started never starts; what runs is stopped, unless `terminate` is False. May be repeated.

        Returns:
            Whether there was anything left to revoke.

        Raises:
            PublishError: the workers could not be told.
            TaskNotFound, TaskExpired, BackendError: as for `status`.
        """
        unfinished = self._unfinished(await self.status())
        if unfinished:
            await self._revoke(unfinished, terminate=terminate)
        return bool(unfinished)

    async def forget(self) -> None:
        """Delete the stored results, and the record. Does not stop anything: see `cancel`.

        Raises:
            BackendError: the result backend did not answer.
        """
        if self._record is None:
            _, self._record = await self._transport.read(self.id)
        await self._transport.forget(self._task_ids(), record_of=self.id)

    async def _wait(self, seconds: float) -> TaskStatus | None:
        """Look until the state is final or the time is up; return what was seen last, None for nothing."""
        status: TaskStatus | None = None
        with contextlib.suppress(TimeoutError):
            looks = contextlib.aclosing(self._transport.changes(self.id))
            async with asyncio.timeout(seconds), looks as changes:
                async for _ in changes:
                    with contextlib.suppress(BackendError):
                        status = await self.status()
                    if status is not None and status.state.is_final:
                        break
        return status

    async def _revoke(self, task_ids: list[str], *, terminate: bool, mark: bool = True) -> None:
        await self._transport.revoke(task_ids, terminate=terminate)
        # A worker stores REVOKED when it meets the message. It may meet it never (no worker, or the message
        # expired in its queue), and the caller is to see the cancellation now: so it is marked here as well,
        # unless the backend is down, where the workers' knowing must do.
        if mark:
            with contextlib.suppress(BackendError):
                await self._transport.mark_revoked(task_ids)

    def _unwrap(self, status: TaskStatus) -> R:
        if status.state is TaskState.SUCCESS:
            try:
                return self._convert(status.result)
            except Exception as exc:
                raise TaskFailed(
                    task_id=status.id,
                    name=status.name,
                    type=type(exc).__name__,
                    message=f"its result is not what was promised: {exc}",
                ) from exc
        task = task_at_fault(status)
        type_, message = (task.error.type, task.error.message) if task.error else ("Unknown", "")
        if status.state is TaskState.FAILURE:
            raise TaskFailed(task_id=task.id, name=task.name, type=type_, message=message)
        raise TaskRevoked(task_id=task.id, name=task.name, reason=message)

    def _task_ids(self) -> list[str]:
        return [self.id] if self._record is None else [leaf.id for leaf in self._record.tree.leaves()]

    def _unfinished(self, status: TaskStatus | None) -> list[str]:
        if status is None:
            return self._task_ids()
        return [leaf.id for leaf in _leaves(status) if not leaf.state.is_final]

    def _is_past_deadline(self, accepted_at: datetime | None) -> bool:
        return accepted_at is not None and datetime.now(UTC) > accepted_at + self._task_deadline + _ID_RESOLUTION


GroupHandle: TypeAlias = TaskHandle[list[R]]
"""The handle of a group: its result is the list of its members' results, in their order."""


def _leaves(status: TaskStatus) -> Iterator[TaskStatus]:
    if not status.children:
        yield status
    for child in status.children:
        yield from _leaves(child)
