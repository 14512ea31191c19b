"""How a task's result reaches the client: the wait rules, once for all tasks and workflows.

| the client sends | what happens |
|---|---|
| nothing | wait the default time, then revoke the task and answer 504 |
| `Prefer: wait=N` | the same with N seconds, at most the configured maximum |
| `Prefer: respond-async`, or the path's `/async` twin | 202 with `Location` at once |
| `Prefer: respond-async, wait=N` | wait N seconds, then 202; the task goes on |
| `Prefer: cancel-on-disconnect` beside a wait | a client that leaves while it waits cancels its task |

How it works: an endpoint sends its task with `reply.expires` (a task whose client will be gone must not run)
and hands the handle to `reply.deliver`. `Patience` waits for the first of: the result, the client's leaving, the
API's shutdown.

What belongs here: waiting and its answers. Errors are raised, `problems.py` answers them.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.responses import Response

from app.api.preferences import Preference
from app.api.problems import ClientGoneError, ShuttingDownError
from app.celery.journal import Journal
from app.celery.schemas import AsyncTask, AsyncTaskStatus
from async_celery import AsyncCeleryError, OnTimeout, ResultTimeout, TaskHandle, TaskState

logger = logging.getLogger("app.replies")

R = TypeVar("R")

ASYNC_SUFFIX = "/async"


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Waiting on behalf of one request, no longer than there is somebody to answer."""

    request: Request
    shutdown: asyncio.Event

    async def result(self, handle: TaskHandle[R], seconds: float, on_timeout: OnTimeout) -> R:
        """Wait for `handle`'s result, at most `seconds`.

        Raises:
            ClientGoneError: nobody waits any more. The task is left alone.
            ShuttingDownError: the API stops. The task is left alone.
            ResultTimeout, TaskError, TaskNotFound, TaskExpired: as `TaskHandle.result`.
        """
        result = asyncio.ensure_future(handle.result(seconds, on_timeout))
        gone = asyncio.ensure_future(self._client_gone())
        stopping = asyncio.ensure_future(self.shutdown.wait())
        waits: tuple[asyncio.Future[Any], ...] = (result, gone, stopping)
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
        finally:
            for future in waits:
                future.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if self.shutdown.is_set():
            raise ShuttingDownError(handle.id)
        raise ClientGoneError(handle.id)

    async def _client_gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


@dataclass(frozen=True, kw_only=True)
class Reply:
    """How one request's client wants its answer."""

    patience: Patience
    journal: Journal
    preference: Preference
    default_wait: float  # s
    max_wait: float  # s

    @property
    def wait(self) -> float:
        """Seconds to wait for the result; 0 when the client does not want to."""
        if self.preference.wait is not None:
            return min(float(self.preference.wait), self.max_wait)
        return 0.0 if self.preference.respond_async else self.default_wait

    @property
    def expires(self) -> float | None:
        """Seconds after which the task must not start any more; None: the task's own deadline."""
        return None if self.preference.respond_async else self.wait

    async def deliver(self, handle: TaskHandle[R]) -> Response:
        """Wait for the result as the client asked, and answer.

        Raises:
            ResultTimeout: the wait is over, the task was revoked.
            TaskError: the task failed or was revoked.
            ClientGoneError: nobody waits any more; the task was revoked if the client preferred so.
            ShuttingDownError: the API stops; the task was revoked.
        """
        self.patience.request.state.task_id = handle.id
        if self.wait == 0:
            return self._accepted(handle.id)
        on_timeout = OnTimeout.KEEP if self.preference.respond_async else OnTimeout.REVOKE
        try:
            with self.journal.delivery(handle.id):
                result = await self.patience.result(handle, self.wait, on_timeout)
        except (ResultTimeout, ShuttingDownError) as over:
            if on_timeout is OnTimeout.KEEP:
                return self._accepted(handle.id)
            if isinstance(over, ShuttingDownError):
                await handle.cancel()
            raise
        except ClientGoneError:
            if self.preference.cancel_on_disconnect:
                await self._cancel(handle)
            raise
        body = AsyncTaskStatus[Any](id=UUID(handle.id), status=TaskState.SUCCESS, result=result)
        return self._json(200, body)

    async def _cancel(self, handle: TaskHandle[Any]) -> None:
        try:
            await handle.cancel()
        except AsyncCeleryError as error:
            # There is nobody to tell.
            logger.warning("task %s goes on although its client has left: %s", handle.id, error)

    def _accepted(self, task_id: str) -> Response:
        body = AsyncTask(id=UUID(task_id), status=TaskState.QUEUED)
        return self._json(202, body, {"Location": f"/v1/tasks/{task_id}"})

    def _json(self, status: int, body: BaseModel, headers: dict[str, str] | None = None) -> Response:
        applied = {"Preference-Applied": self._applied()} if self._applied() else {}
        return JSONResponse(body.model_dump(mode="json"), status, {**(headers or {}), **applied})

    def _applied(self) -> str:
        """The preferences that were honoured (RFC 7240 §3)."""
        names = ["respond-async"] if self.preference.respond_async else []
        if self.preference.wait is not None:
            names.append(f"wait={self.wait:.0f}")
        if self.preference.cancel_on_disconnect and self.wait > 0:
            names.append("cancel-on-disconnect")
        return ", ".join(names)
