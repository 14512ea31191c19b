"""Handles: what the caller keeps of a task or a workflow that was sent.

How it works: a handle is an id, the broker and backend to ask, and the function that turns the JSON result into
`R`. It reads state in one order (`status`): the stored results; the record, which gives a workflow its shape;
and, for a task that has neither, what its id says. Waiting is following what the backend stores, change by
change, looking at the whole only when a change can have ended it.

What belongs here: reading, waiting, watching, cancelling, forgetting one task or workflow. What the stored values
mean stands in `status.py`; how they get here, in the backend.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from async_celery.backoff import Backoff
from async_celery.errors import (
    BackendError,
    PublishError,
    ResultTimeout,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TaskRevoked,
)
from async_celery.metas import is_final
from async_celery.observation import NOBODY, Observer, RevokeReason, WaitOutcome
from async_celery.spans import Tracer
from async_celery.status import is_stuck, task_at_fault, task_status, workflow_status
from async_celery.types import (
    Backend,
    Broker,
    Expectation,
    Meta,
    OnTimeout,
    TaskErrorInfo,
    TaskRecord,
    TaskState,
    TaskStatus,
)

R = TypeVar("R")

# Ids carry whole seconds, so a task may have up to one more than its id says.
_ID_RESOLUTION = 1.0  # s
# A wait that has timed out looks once more before it revokes, and answers within 200 ms of its deadline even
# when the backend does not.
_LAST_LOOK = 0.2  # s
_RETRIES = Backoff(first=0.05, factor=2, limit=1)


class Link(NamedTuple):
    """What all handles of a client share."""

    broker: Broker
    backend: Backend
    task_deadline: float  # s after acceptance
    observer: Observer
    tracer: Tracer | None


class TaskHandle(Generic[R]):
    """One accepted task or workflow; made by `AsyncCelery`. It holds no connection and needs no closing."""

    __slots__ = (
        "__weakref__",
        "_accepted_at",
        "_convert",
        "_expectation",
        "_is_known",
        "_link",
        "_name",
        "_record",
        "id",
    )

    def __init__(
        self,
        task_id: str,
        link: Link,
        convert: Callable[[Any], R],
        accepted_at: float | None,
        is_known: bool,
        name: str | None = None,
        record: TaskRecord | None = None,
        expectation: Expectation | None = None,
    ) -> None:
        """Keep what is known of a task.

        Args:
            task_id: its id.
            link: the client's.
            convert: called with the JSON result.
            accepted_at: when it was accepted, in s since 1970; None when the id does not say.
            is_known: whether it is known that there is no other record than `record`.
            name: the task's, or what kind of workflow it is; None when only its results say.
            record: of a workflow.
            expectation: from before it was sent, by this client.
        """
        self.id = task_id
        self._link = link
        self._convert = convert
        self._accepted_at = accepted_at
        self._is_known = is_known
        self._name = name
        self._record = record
        self._expectation = expectation

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def status(self) -> TaskStatus:
        """Return the state as it is now, with every child for a workflow.

        Raises:
            TaskNotFound: nothing is stored, and the id is not one this client accepted.
            TaskExpired: it was accepted, but has not finished by its deadline and will not start any more.
            BackendError: the result backend did not answer.
        """
        metas: dict[str, Meta] = {}
        if self._is_known:
            stored = await self._link.backend.read_many(ids := self._task_ids())
            metas = {id_: meta for id_, meta in zip(ids, stored, strict=True) if meta is not None}
        else:
            meta, self._record = await self._link.backend.read(self.id)
            # What has no record once it is stored, or is ours alone, never gets one: records come first.
            self._is_known = True
            if self._record is not None:
                return await self.status()
            if meta is not None:
                metas = {self.id: meta}
            elif self._accepted_at is None:
                self._is_known = False
                raise TaskNotFound(self.id)
        status = self._status_from(metas)
        if is_stuck(status) and self._deadline_passed():
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
        tracer = self._link.tracer
        if tracer is not None:
            with tracer.waiting(self._name, self.id):
                return await self._observed_result(timeout, on_timeout)
        left = self._until_deadline()
        if self._link.observer is not NOBODY or self._record is not None or not self._is_known or left <= 0:
            return await self._observed_result(timeout, on_timeout)
        # The same for a task that is new and that nobody observes, without a status, which costs as much again.
        end = time.monotonic() + timeout
        meta = await self._end_of_task(min(timeout, left))
        if meta is not None and meta["status"] == TaskState.SUCCESS:
            return self._converted(meta.get("result"), name=self._name)
        latest = self._status_of_task(meta)
        return self._unwrap(await self._concluded(latest, end, timeout, on_timeout))

    async def _observed_result(
        self,
        timeout: float,  # noqa: ASYNC109 (as for `result`)
        on_timeout: OnTimeout,
    ) -> R:
        """Do as `result` says, and tell the observer."""
        observer = self._link.observer
        observer.wait_began()
        started, started_at = time.perf_counter(), time.time()
        outcome = WaitOutcome.ABANDONED
        try:
            status = await self._ending(timeout, on_timeout)
            outcome = _WAIT_OUTCOMES[status.state]
            self._name = self._name or status.name
            if status.finished_at is not None:
                observer.delivered(
                    self._name, max(0.0, time.time() - max(started_at, status.finished_at.timestamp()))
                )
        except ResultTimeout:
            outcome = WaitOutcome.TIMEOUT
            raise
        except (TaskNotFound, TaskExpired):
            outcome = WaitOutcome.UNKNOWN
            raise
        finally:
            observer.wait_ended(self._name, outcome, time.perf_counter() - started)
        return self._unwrap(status)

    async def _ending(
        self,
        timeout: float,  # noqa: ASYNC109 (as for `result`)
        on_timeout: OnTimeout,
    ) -> TaskStatus:
        """Wait for a final status and return it; do about a timeout what is to be done.

        Raises:
            ResultTimeout, TaskNotFound, TaskExpired: as for `result`.
        """
        end = time.monotonic() + timeout
        return await self._concluded(await self._wait(self._at_most(timeout)), end, timeout, on_timeout)

    async def _concluded(
        self,
        latest: TaskStatus | None,
        end: float,
        timeout: float,  # noqa: ASYNC109 (as for `result`)
        on_timeout: OnTimeout,
    ) -> TaskStatus:
        """Do the rest of `_ending`, after the first wait.

        Args:
            latest: what that has brought.
            end: of the time, by the monotonic clock.
            timeout: see `result`.
            on_timeout: see `result`.
        """
        answers = True
        while latest is None or not latest.state.is_final:
            # What came in the last moment is a result, not a timeout; what is past its deadline is over.
            try:
                async with asyncio.timeout(_LAST_LOOK):
                    latest = await self.status()
                answers = True
            except (TimeoutError, BackendError):
                answers = False
            left = end - time.monotonic()
            if left <= 0 or (latest and latest.state.is_final):
                break
            latest = await self._wait(self._at_most(left)) or latest
        if latest and latest.state.is_final:
            return latest
        revoked = False
        if on_timeout is OnTimeout.REVOKE:
            # The caller learns from `revoked` when nobody can promise it.
            with contextlib.suppress(BackendError, PublishError):
                # A backend that does not answer has had its time.
                within = None if answers else 0
                await self._revoke(self._unfinished(latest), terminate=True, within=within)
                revoked = True
                name = self._name or (latest.name if latest else None)
                self._link.observer.revoked(name, RevokeReason.TIMEOUT)
        state = latest.state if latest else TaskState.QUEUED
        raise ResultTimeout(task_id=self.id, state=state, timeout=timeout, revoked=revoked)

    async def watch(self) -> AsyncGenerator[TaskStatus]:
        """Yield the state as it is now, then every change as it is stored, until it is final.

        Progress that a task reports (`update_state`) comes as `TaskStatus.progress`. Changes that come faster
        than they are taken are merged: the last one is never missed. A backend that does not answer is waited
        for. Leave it early through `contextlib.aclosing`.

        Raises:
            TaskNotFound, TaskExpired: as for `status`.
        """
        seen = await self._first_look()
        yield seen
        metas: dict[str, Meta] = {}
        while not seen.state.is_final:
            async with contextlib.aclosing(self._follow()) as batches:
                while not seen.state.is_final:
                    try:
                        async with asyncio.timeout(self._at_most(None)):
                            _learn(metas, await anext(batches))
                    except TimeoutError:
                        # Cut off, `batches` has ended. Past the deadline only what runs can still change.
                        await self._first_look()
                        break
                    if (status := await self._settled(self._status_from(metas))) != seen:
                        seen = status
                        yield seen

    async def cancel(self, *, terminate: bool = True) -> bool:
        """Revoke the task, or everything of the workflow that is not finished.

        What has not started never starts, on whatever worker, now or later; what runs is stopped, unless
        `terminate` is False. May be repeated.

        Returns:
            Whether there was anything left to revoke.

        Raises:
            BackendError: the result backend did not answer, or did not take the tombstones: it may yet run.
            PublishError: only from other backends than Redis, which have none: the workers could not be told.
            TaskNotFound, TaskExpired: as for `status`.
        """
        status = await self.status()
        unfinished = self._unfinished(status)
        if unfinished:
            await self._revoke(unfinished, terminate=terminate)
            self._link.observer.revoked(self._name or status.name, RevokeReason.CANCEL)
        return bool(unfinished)

    async def noted_times(self) -> dict[str, float]:
        """Return what `AsyncCelery.note_times` has noted of it, in s since 1970 by what happened.

        Raises:
            BackendError: the result backend did not answer.
        """
        return await self._link.backend.noted(self.id)

    async def forget(self) -> None:
        """Delete the stored results, and the record. Does not stop anything: see `cancel`.

        Raises:
            BackendError: the result backend did not answer.
        """
        if not self._is_known:
            _, self._record = await self._link.backend.read(self.id)
        await self._link.backend.forget(self._task_ids(), record_of=self.id)
        self._expectation = None

    async def _wait(self, seconds: float | None) -> TaskStatus | None:
        """Wait until the state is final or the time is up; return what was seen last, None for nothing."""
        may_yet_end = self._may_yet_end()
        if may_yet_end and self._record is None:
            return self._status_of_task(await self._end_of_task(seconds))
        metas: dict[str, Meta] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if not may_yet_end:
                    status = await self._first_look()
                    if status.state.is_final:
                        return status
                if self._record is None:
                    return self._status_of_task(await self._end_of_task(None))
                # A workflow may have thousands of tasks: only these, or a failure, can end it.
                missing = set(self._record.tree.result_ids())
                async with contextlib.aclosing(self._follow()) as batches:
                    async for batch in batches:
                        _learn(metas, batch)
                        failed = False
                        for task_id, meta in batch:
                            if meta["status"] == TaskState.SUCCESS:
                                missing.discard(task_id)
                            elif is_final(meta):
                                failed = True
                        if failed or not missing:
                            status = await self._settled(self._status_from(metas))
                            if status.state.is_final:
                                return status
        return self._status_from(metas) if metas else None

    def _may_yet_end(self) -> bool:
        """Return whether it need not be looked at before it is waited for."""
        return self._is_known and not self._deadline_passed()

    def _end_of_task(self, within: float | None) -> Coroutine[Any, Any, Meta | None]:
        """Wait for what is no workflow; see `Backend.ending`."""
        return self._link.backend.ending(self.id, self._expectation, within=within)

    def _status_of_task(self, meta: Meta | None) -> TaskStatus | None:
        return None if meta is None else self._status_from({self.id: meta})

    async def _first_look(self) -> TaskStatus:
        """Return the status, as soon as the backend answers."""
        pauses = _RETRIES.pauses()
        while True:
            with contextlib.suppress(BackendError):
                return await self.status()
            await asyncio.sleep(next(pauses))

    async def _settled(self, status: TaskStatus) -> TaskStatus:
        """Return the status; of a workflow that failed or was revoked, as it is stored.

        Celery stores an ending also for what would have followed, and that may be heard of first: when the cause
        was stored just before the subscription stood. What is stored holds the cause whenever it holds an echo.
        """
        if self._record is None or not status.state.is_final or status.state is TaskState.SUCCESS:
            return status
        return await self._first_look()

    def _follow(self) -> AsyncGenerator[list[tuple[str, Meta]]]:
        return self._link.backend.follow(self._task_ids(), self._expectation)

    async def _revoke(self, task_ids: list[str], *, terminate: bool, within: float | None = None) -> None:
        """Have these never start, or stop.

        Args:
            task_ids: those that are not finished.
            terminate: whether what runs is stopped.
            within: in s, how long the tombstones are waited for; None for as long as the backend may take.

        Raises:
            BackendError, PublishError: nobody can promise it.
        """
        broker, backend, *_ = self._link
        try:
            async with asyncio.timeout(within):
                # The workflow's own id goes for what its tasks may start: all of it has that for its root.
                ids = dict.fromkeys((self.id, *task_ids))
                is_buried = await backend.bury(list(ids), terminate=terminate)
        except (BackendError, TimeoutError) as exc:
            # Workers that run now can be told all the same.
            with contextlib.suppress(PublishError):
                await broker.revoke(task_ids, terminate=terminate)
            raise BackendError(f"the tombstones could not be written: {exc}") from exc
        if is_buried:
            await self._mark_revoked(task_ids)
            # Our workers would find the tombstones anyway; those that do not know them must be told.
            with contextlib.suppress(PublishError):
                await broker.revoke(task_ids, terminate=terminate)
        else:
            await broker.revoke(task_ids, terminate=terminate)
            await self._mark_revoked(task_ids)

    async def _mark_revoked(self, task_ids: list[str]) -> None:
        # A worker stores REVOKED when it meets the message. It may meet it never (no worker, or the message
        # expired in its queue), and the caller is to see the cancellation now: so it is marked here as well.
        with contextlib.suppress(BackendError):
            await self._link.backend.mark_revoked(task_ids)

    def _status_from(self, metas: Mapping[str, Meta]) -> TaskStatus:
        if self._record is not None:
            return workflow_status(self._record, metas)
        accepted_at = None if self._accepted_at is None else datetime.fromtimestamp(self._accepted_at, UTC)
        return task_status(self.id, metas.get(self.id), accepted_at=accepted_at)

    def _unwrap(self, status: TaskStatus) -> R:
        if status.state is TaskState.SUCCESS:
            return self._converted(status.result, name=status.name)
        task = task_at_fault(status)
        error = task.error or TaskErrorInfo(type="Unknown", message="")
        if status.state is TaskState.FAILURE:
            raise TaskFailed(
                task_id=task.id, name=task.name, type=error.type, message=error.message, code=error.code
            )
        raise TaskRevoked(task_id=task.id, name=task.name, reason=error.message)

    def _converted(self, result: Any, *, name: str | None) -> R:
        try:
            return self._convert(result)
        except Exception as exc:
            raise TaskFailed(
                task_id=self.id,
                name=name,
                type=type(exc).__name__,
                message=f"its result is not what was promised: {exc}",
            ) from exc

    def _task_ids(self) -> list[str]:
        return [self.id] if self._record is None else [leaf.id for leaf in self._record.tree.leaves()]

    def _unfinished(self, status: TaskStatus | None) -> list[str]:
        if status is None:
            return self._task_ids()
        return [leaf.id for leaf in _leaves(status) if not leaf.state.is_final]

    def _until_deadline(self) -> float:
        """Return how long it is, in s, until the deadline: negative when it has passed, infinite when unknown."""
        accepted_at = self._record.accepted_at.timestamp() if self._record else self._accepted_at
        if accepted_at is None:
            return math.inf
        return accepted_at + self._link.task_deadline + _ID_RESOLUTION - time.time()

    def _deadline_passed(self) -> bool:
        return self._until_deadline() <= 0

    def _at_most(self, seconds: float | None) -> float | None:
        """Return the time until the deadline where that is ahead and shorter: then it is worth looking again."""
        left = self._until_deadline()
        if not 0 < left < math.inf:
            return seconds
        return left if seconds is None else min(seconds, left)


_WAIT_OUTCOMES = {
    TaskState.SUCCESS: WaitOutcome.SUCCESS,
    TaskState.FAILURE: WaitOutcome.FAILURE,
    TaskState.REVOKED: WaitOutcome.REVOKED,
}

GroupHandle: TypeAlias = TaskHandle[list[R]]
"""The handle of a group: its result is the list of its members' results, in their order."""


def _learn(metas: dict[str, Meta], batch: list[tuple[str, Meta]]) -> None:
    """Take over what came, unless it is older: what was read may overtake what was pushed before."""
    for task_id, meta in batch:
        known = metas.get(task_id)
        if known is None or not is_final(known) or is_final(meta):
            metas[task_id] = meta


def _leaves(status: TaskStatus) -> Iterator[TaskStatus]:
    if not status.children:
        yield status
    for child in status.children:
        yield from _leaves(child)
