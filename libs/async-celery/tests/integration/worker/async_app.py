"""The app of the tests of `async def` tasks: `tasks_app`'s, with coroutines.

How it works: each task notes its run as the others do. What happens to it afterwards is a line in the file
`events` beside the oracle's log.

What belongs here: the smallest coroutine per behaviour that a test needs.
"""

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from celery import Celery, Task, current_task

from async_celery.worker import raise_if_cancelled, shared

from ..oracle import Oracle
from .tasks_app import VARIABLE, AppSettings, make_app


def make_async_app(settings: AppSettings) -> Celery:
    """Make the app with its tasks; a worker's, or a client's of that worker."""
    app = make_app(settings)
    oracle, events = Oracle(settings.oracle), events_of(settings)
    here: set[str] = set()

    def note(task: "Task[Any, Any]") -> None:
        oracle.note(task.request.id or "", 1 + task.request.retries)

    def tell(event: str) -> None:
        with events.open("a") as file:
            file.write(f"{event}\n")

    @asynccontextmanager
    async def resource() -> AsyncIterator[int]:
        tell("opened")
        yield os.getpid()
        await asyncio.sleep(0.01)
        tell("closed")

    @app.task(name="where")
    async def where() -> dict[str, int]:
        """Return which process and which loop this is, and who has opened the resource."""
        note(current_task)
        opened_by = await shared(resource)
        return {"pid": os.getpid(), "loop": id(asyncio.get_running_loop()), "opened_by": opened_by}

    @app.task(name="hold_on", bind=True)
    async def hold_on(self: "Task[Any, Any]", seconds: float = 60) -> str:
        """Wait; clean up, when that is interrupted."""
        note(self)
        await shared(resource)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            tell("cleaned up")
            raise
        return "held on"

    @app.task(name="block", bind=True)
    async def block(self: "Task[Any, Any]") -> None:
        """Never await."""
        note(self)
        while True:
            with suppress(Exception):
                time.sleep(0.05)  # noqa: ASYNC251 (what nobody should do)

    @app.task(name="meet", bind=True)
    async def meet(self: "Task[Any, Any]", count: int, seconds: float = 10) -> int:
        """Wait, for so long at most, until so many are here at once; return the most that were."""
        note(self)
        here.add(self.request.id or "")
        most = len(here)
        try:
            end = time.monotonic() + seconds
            while most < count and time.monotonic() < end:
                await asyncio.sleep(0.01)
                most = max(most, len(here))
            await asyncio.sleep(0.05)
        finally:
            here.discard(self.request.id or "")
        return most

    @app.task(name="who", bind=True)
    async def who(self: "Task[Any, Any]") -> list[Any]:
        """Return the ids by which it knows itself: before it awaits, after, and in an asyncio task of its own."""
        note(self)

        async def inside() -> Any:
            await asyncio.sleep(0.01)
            return current_task.request.id

        first = self.request.id
        await asyncio.sleep(0.02)
        return [first, self.request.id, current_task.request.id, await asyncio.wait_for(inside(), 5)]

    @app.task(name="who_in_thread", bind=True)
    def who_in_thread(self: "Task[Any, Any]") -> dict[str, Any]:
        """Return the same of a plain function, and whether it may block."""
        note(self)
        time.sleep(0.05)
        is_main = threading.current_thread() is threading.main_thread()
        return {"id": current_task.request.id, "own": self.request.id, "in_main": is_main}

    @app.task(name="swallow_on", bind=True)
    async def swallow_on(self: "Task[Any, Any]") -> None:
        """Run on, however often it is cancelled."""
        note(self)
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    @app.task(name="leave_the_program", bind=True)
    async def leave_the_program(self: "Task[Any, Any]") -> None:
        note(self)
        if len(oracle.executions(self.request.id)) == 1:
            raise SystemExit(3)

    @app.task(name="garbage", bind=True)
    async def garbage(self: "Task[Any, Any]") -> int:
        """Return how many objects the garbage collector finds."""
        note(self)
        return gc.collect()

    @app.task(name="send_next", bind=True)
    async def send_next(self: "Task[Any, Any]") -> str:
        """Send a task, as a child of this one."""
        note(self)
        await asyncio.sleep(0)
        return str(plus.delay(1, 1).id)

    @app.task(name="tick", bind=True)
    async def tick(self: "Task[Any, Any]", gate: str) -> float:
        """Look for a file until it is there; return the longest time, in s, between two looks."""
        note(self)
        longest, last = 0.0, time.monotonic()
        while not os.path.exists(gate):  # noqa: ASYNC240, PTH110 (as quick as can be)
            await asyncio.sleep(0.05)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        return longest

    @app.task(name="cooperate_on", bind=True)
    async def cooperate_on(self: "Task[Any, Any]") -> None:
        """Ask by itself, as it must in pools without signals."""
        note(self)
        while True:
            raise_if_cancelled()
            await asyncio.sleep(0.01)

    @app.task(name="leave_running", bind=True)
    async def leave_running(self: "Task[Any, Any]") -> str:
        """Start what outlives it."""
        note(self)
        left = asyncio.create_task(asyncio.sleep(60), name="left-behind")
        await asyncio.sleep(0)
        return left.get_name()

    @app.task(name="plus", bind=True)
    async def plus(self: "Task[Any, Any]", value: int, amount: int) -> int:
        note(self)
        await asyncio.sleep(0)
        return value + amount

    @app.task(name="plus_all", bind=True)
    async def plus_all(self: "Task[Any, Any]", values: list[int]) -> int:
        note(self)
        await asyncio.sleep(0)
        return sum(values)

    @app.task(name="stumble", autoretry_for=(ConnectionError,), retry_backoff=1, max_retries=2, bind=True)
    async def stumble(self: "Task[Any, Any]") -> int:
        """Fail once in a way that is retried."""
        note(self)
        await asyncio.sleep(0)
        if not self.request.retries:
            raise ConnectionError("not yet")
        return int(self.request.retries)

    @app.task(name="raise_error", bind=True)
    async def raise_error(self: "Task[Any, Any]") -> None:
        note(self)
        await asyncio.sleep(0)
        raise LookupError("nothing there")

    return app


def events_of(settings: AppSettings) -> Path:
    """Return the file of what has happened to the tasks."""
    return Path(settings.oracle).with_name("events")


if VARIABLE in os.environ:
    # Celery finds it by `-A tests.integration.worker.async_app:app`.
    app = make_async_app(AppSettings.from_text(os.environ[VARIABLE]))
