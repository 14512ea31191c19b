"""The app of the tests of the direct way: `async_app`'s, with tasks that end in every way, and tell which it is.

How it works: on the long way a task's body is called from a greenlet of its job, on the direct way there is none.

What belongs here: tasks that differ in what Celery would do around their bodies.
"""

import asyncio
import os
from datetime import UTC, datetime
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject

from async_celery.worker import waiting
from async_celery.worker.task import ReliableTask

from ..oracle import Oracle
from .async_app import make_async_app
from .tasks_app import VARIABLE, AppSettings


def way() -> str:
    """Return which way the task that asks goes."""
    return "direct" if waiting.stack.get() is None else "long"


class Handling(ReliableTask):
    """One with a handler."""

    abstract = True

    def before_start(self, *_: Any) -> None:
        """Be there."""


class Calling(ReliableTask):
    """One with a call of its own."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class Failing(ReliableTask):
    """One that says what its failed run has said of itself."""

    abstract = True

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Write it into the log."""
        print(f"{task_id} has failed: {exc!r}, {args}, {kwargs}, {self.request.get('said')}", flush=True)  # noqa: T201


def make_direct_app(settings: AppSettings) -> Celery:
    """Make the app with its tasks."""
    app = make_async_app(settings)
    task: Any = app.task  # its stubs know fewer ways to call it
    oracle = Oracle(settings.oracle)

    async def which() -> str:
        await asyncio.sleep(0)
        return way()

    async def which_of(_: Any) -> str:
        await asyncio.sleep(0)
        return way()

    task(which, name="plain")
    task(which_of, name="bound", bind=True)
    task(which, name="retrying", autoretry_for=(OSError,))
    task(which, name="ignoring", ignore_result=True)
    task(which, name="limited_softly", soft_time_limit=30, time_limit=40)
    task(which, name="handling", base=Handling)
    task(which, name="calling", base=Calling)
    task(which, name="acknowledged_early", acks_late=False)
    task(which, name="started_at_once", track_started=True)
    task(which, name="checked", pydantic=True)
    task(which, name="rationed", rate_limit="1000/s")

    class OfClass(app.Task):  # type: ignore[name-defined,misc]  # made for each app
        name = "of_class"

        async def run(self) -> str:
            return way()

    app.register_task(OfClass())

    @task(name="act", bind=True, base=Failing, max_retries=1, soft_time_limit=1)  # type: ignore[untyped-decorator]  # see above
    async def act(self: "Task[Any, Any]", how: str, *_: Any) -> Any:
        """End as is asked."""
        oracle.note(self.request.id or "", 1 + self.request.retries)
        self.request.said = "so"  # type: ignore[attr-defined]  # as applications do
        await asyncio.sleep(0.01)
        match how:
            case "object":
                return {"a": [1, None, "é", 1.5]}
            case "time":
                return datetime(2026, 11, 23, tzinfo=UTC)
            case "nothing":
                return None
            case "no JSON":
                return object()
            case "too large":
                return "x" * 2_000_000
            case "error":
                raise LookupError("nothing there", 1)
            case "odd error":
                raise type("Odd", (Exception,), {"__reduce__": None})("odd")
            case "reject":
                raise Reject("no", requeue=False)
            case "ignore":
                raise Ignore
            case "retry":
                raise self.retry(countdown=0)
            case "retry once" if not self.request.retries:
                raise self.retry(countdown=0)
            case "send":
                return app.send_task("plain", queue=settings.queue).id and "sent"
            case "send and fail":
                app.send_task("plain", queue=settings.queue)
                raise LookupError("after all")
            case "cancelled within":
                raise asyncio.CancelledError
            case "too long":
                await asyncio.sleep(60)
            case "leave":
                asyncio.create_task(asyncio.sleep(60), name="left")  # noqa: RUF006 (that is what is tested)
        return how

    return app


if VARIABLE in os.environ:
    # Celery finds it by `-A tests.integration.worker.direct_app:app`.
    app = make_direct_app(AppSettings.from_text(os.environ[VARIABLE]))
