"""Jobs: tasks that run side by side on one event loop, through all of Celery's synchronous code.

How it works: what Celery does around a task's body (the tracer, the guard of `task.py`, the result backend) is
made of plain functions, which cannot await. So a job runs them in a greenlet of its own: a call stack that can
be left and come back to. Where that code must wait, for Redis or for the body, it calls `wait` (`waiting.py`):
the greenlet is left, the job's asyncio task awaits, other jobs run meanwhile, and `wait` returns the answer
where it was called. Nothing else leaves a greenlet, so what stands between two waits is never interrupted, as
in any coroutine.

The body of an `async def` task is awaited by the job's asyncio task itself: it is ordinary asyncio, with
timeouts, task groups and cancellation. A plain function runs in a thread, where it may block. Both are in the
job's context, by which Celery's stacks (the current task, its request) are told apart; so are the asyncio tasks
of a body.

A job that is interrupted (soft time limit, cancellation) is so in its body alone, and ends with the reason. One
that is given up (hard time limit, the end of the worker) is interrupted, and whatever it still says is not
heard.

Needs `pip install async-celery[asyncio]`.

What belongs here: one job, and the loop that jobs run on. How many there are, and since when, is the pool's
(`asyncio_pool.py`).
"""

import asyncio
import concurrent.futures
import contextvars
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.utils.threads import get_ident
from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]

from async_celery.worker import waiting
from async_celery.worker.loops import TaskLoop, end_tasks

T = TypeVar("T")


class GivenUpError(BaseException):
    """Raised in the body of a job that nobody waits for any more: clean up and let it pass."""


class _Greenlet(greenlet):  # type: ignore[misc]  # it has no stubs
    """A call stack, made by the one that it is left for."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._driver = getcurrent()
        # What either side sets in its context, both see.
        self.gr_context = self._driver.gr_context

    @property
    def is_mine(self) -> bool:
        return getcurrent() is self

    def wait(self, awaitable: Awaitable[T]) -> T:
        answer: T = self._driver.switch(awaitable)
        return answer


async def in_greenlet(function: Callable[..., T], *args: Any) -> T:
    """Call a plain function that may `wait`; return what it returns."""
    mine = _Greenlet(function)
    waiting.stack.set(mine)
    value: Any = mine.switch(*args)
    while not mine.dead:
        try:
            answer = await value
        except BaseException as exc:
            value = mine.throw(type(exc), exc, exc.__traceback__)
        else:
            value = mine.switch(answer)
    waiting.stack.set(None)
    return value  # type: ignore[no-any-return]  # a greenlet's last switch returns the function's value


def identity() -> Hashable:
    """Return by what Celery's stacks are told apart: the job, else what Celery takes."""
    job = waiting.job.get()
    return get_ident() if job is None else job


def raised(exc: Exception) -> ExceptionInfo:
    """Return an exception as Celery's pools hand it on."""
    try:
        raise exc  # noqa: TRY301 (`ExceptionInfo` is of what is being handled)
    except Exception:
        return ExceptionInfo()


def _raise(exc: BaseException) -> None:
    raise exc


class Job:
    """One message's task, on its way through the tracer. Times are `time.monotonic`'s."""

    __slots__ = (
        "__weakref__",
        "_direct",
        "_ended",
        "_in_body",
        "_reason",
        "_started",
        "args",
        "began",
        "celery_request",
        "celery_task",
        "is_given_up",
        "is_shown",
        "on_end",
        "options",
        "target",
        "task",
        "told_at",
    )

    def __init__(
        self,
        target: Callable[..., Any],
        args: Any,
        on_end: "Callable[[Job, Any], None]",
        direct: "Callable[[Job], Coroutine[Any, Any, Any]] | None" = None,
    ) -> None:
        """Prepare one.

        Args:
            target: Celery's tracer.
            args: its arguments.
            on_end: called with the job and what the tracer has returned; an `ExceptionInfo` where it has raised.
            direct: awaited first, with the job; returns what the tracer would, or None to have it called.
        """
        self.target, self.args, self.on_end = target, args, on_end
        self._direct = direct
        self._ended: Callable[[], Any] | None = None  # what its body did, for the long way
        self.task: asyncio.Task[None] | None = None
        self._started: WeakSet[asyncio.Task[Any]] | None = None  # most start none
        self._in_body = False
        self._reason: BaseException | None = None
        self.is_given_up = False
        self.options: Any = None  # the pool's
        self.celery_task: Any = None
        self.celery_request: Any = None
        self.began = 0.0  # its body
        self.is_shown = False  # STARTED is stored
        self.told_at = 0.0  # that it is cancelled

    @property
    def pid(self) -> int:
        """By what Celery names it: there is no process of its own."""
        return id(self)

    async def run(self) -> None:
        """Run the tracer to its end, and tell of it."""
        waiting.job.set(self)
        try:
            outcome = None if self._direct is None else await self._direct(self)
            if outcome is None:
                outcome = await in_greenlet(self._trace)
            self.on_end(self, outcome)
        finally:
            # What its context holds would hold the context: none of it is left to the garbage collector.
            waiting.job.set(None)
            self.task = self.options = self.celery_request = self._direct = self._ended = None

    def _trace(self) -> Any:
        try:
            return self.target(*self.args)
        except GreenletExit:
            raise
        except Exception as exc:
            return raised(exc)
        except BaseException as exc:  # SystemExit of a body must not end the worker
            return raised(WorkerLostError(repr(exc)))

    # ---- what `ReliableTask` does with the clock of a process ----

    @property
    def armed(self) -> bool:
        """Whether its body runs: what is called in it is no task's beginning."""
        return self.began > 0.0

    def arm(self, task: Any, request: Any) -> None:
        """Say that the body begins."""
        self.celery_task, self.celery_request = task, request
        self.began = time.monotonic()

    def disarm(self) -> None:
        """Say that it has ended: it is looked after no more."""
        self.began = 0.0

    # ---- the body ----

    def await_body(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end. Where one may `wait`.

        Raises:
            BaseException: as `_body`.
        """
        return waiting.wait(self._body(coroutine))

    async def run_body(self, function: Callable[..., Coroutine[Any, Any, T]], args: Any, kwargs: Any) -> T:
        """Run a coroutine function to its end, and keep how it ended.

        Raises:
            BaseException: as `_body`.
        """
        try:
            result = await self._body(function(*args, **kwargs))
        except BaseException as exc:
            self._ended = partial(_raise, exc)
            raise
        self._ended = lambda: result
        return result

    @property
    def has_run(self) -> bool:
        """Whether its body has run, and nobody has been told yet how that ended."""
        return self._ended is not None

    def replay(self) -> Any:
        """Return or raise, once, what the body did.

        Raises:
            BaseException: that.
            RuntimeError: it has not run.
        """
        if self._ended is None:
            raise RuntimeError("the body has not run")
        ended, self._ended = self._ended, None
        return ended()

    async def _body(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end.

        Raises:
            BaseException: the reason for which the job was interrupted, when the coroutine has let the
                `CancelledError` pass.
            CancelledError: it has raised one itself. `concurrent.futures`' one, which is an `Exception`.
        """
        if self._reason is not None:
            coroutine.close()
            raise self._reason
        self._in_body = True
        try:
            return await self._main(coroutine)
        except asyncio.CancelledError as exc:
            if self._reason is not None:
                raise self._reason from exc
            raise concurrent.futures.CancelledError(
                "a CancelledError has left the coroutine, and nobody has cancelled its task: catch it where "
                "something else that was cancelled is awaited"
            ) from exc
        finally:
            self._in_body = False

    def call_body(self, function: Callable[[], T]) -> T:
        """Run a plain function in a thread. Where one may `wait`; an interruption does not reach it."""
        if self._reason is not None:
            raise self._reason
        return waiting.wait(asyncio.to_thread(function))

    def interrupt(self, reason: BaseException) -> None:
        """End the body with `reason`; one yet to begin does not, one that has ended is left alone."""
        if self._reason is None:
            self._reason = reason
            if self._in_body and self.task is not None:
                self.task.cancel()

    def give_up(self) -> None:
        """Interrupt it, and hear no more of it."""
        self.is_given_up = True
        self._reason = GivenUpError("nobody waits for this task any more")
        if self._in_body and self.task is not None:
            self.task.cancel()

    def terminate(self, *_: Any) -> None:
        """Give it up. (The name is that of Celery's pools.)"""
        self.give_up()

    def started(self, task: "asyncio.Task[Any]") -> None:
        """Note an asyncio task that the body has started."""
        if self._started is None:
            self._started = WeakSet()
        self._started.add(task)

    async def _main(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return await coroutine
        finally:
            if self._started:
                await end_tasks(self._started)


class JobLoop(TaskLoop):
    """The event loop of a worker's main thread, on which jobs run side by side."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: set[asyncio.Task[Any]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop itself."""
        return self._loop

    @property
    def context(self) -> contextvars.Context:
        """A copy of the one in which the loop was made, with nothing of a task."""
        return self._context.copy()

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run a coroutine as an asyncio task, in a context of its own. Keep it: the loop would forget it."""
        return self._loop.create_task(coroutine, context=self.context)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run one that nobody else keeps."""
        task = self.begin(coroutine)
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine of the job that asks.

        Raises:
            RuntimeError: no job does.
            BaseException: as `Job.await_body`.
        """
        job = waiting.job.get()
        if job is None:
            raise RuntimeError("no task runs here")
        return job.await_body(coroutine)

    def interrupt(self, _: BaseException) -> bool:
        """Say that no signal interrupts a coroutine here: the pool does."""
        return False

    async def _wake_up(self) -> None:
        """Do nothing: this loop never stands still for long."""

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], **options: Any
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        context = options.get("context")
        job = waiting.job.get() if context is None else context.get(waiting.job)
        if job is not None:
            job.started(task)
        return task
