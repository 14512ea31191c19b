"""Loops: where the coroutines of `async def` tasks run.

How it works: a process of the pool runs one task at a time, in its main thread. The first coroutine there makes
an `asyncio.Runner`, and all that follow run on its loop, one after another; between two tasks the loop stands
still. So a task can leave open what the next ones need (`shared`: a database's connections, an HTTP client), and
the end of the process closes it.

Two signals end a task: billiard's, when its soft time limit is over, and the clock's, when it was cancelled. In a
function, their handlers raise. Inside the event loop's own code an exception from nowhere would leave the loop
half-done, so while a coroutine runs, the handlers have the loop cancel it (`interrupt`): it meets
`asyncio.CancelledError` where it awaits, cleans up, and the task ends with what the handler would have raised.
Code that does not await hears of nothing; the hard time limit and `Policy.cancel_grace` end its process.

A coroutine begins with a copy of the context that it was called in, and what it changes there ends with it. The
asyncio tasks that it has started and that still run when it ends are cancelled then: none runs on beside the next
task. With the pools `solo` and `threads`, each thread that runs tasks has a loop of its own, and no signal comes.

What belongs here: loops, and what lives on them. Which functions are run here is decided in `coroutines.py`.
"""

import asyncio
import concurrent.futures
import contextvars
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar
from weakref import WeakSet

from billiard import pool
from celery import signals
from celery._state import get_current_task
from celery.exceptions import SoftTimeLimitExceeded

from async_celery.worker.subject import forget

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_CLOSING = 5.0  # s; a process that is to end does not wait longer for what was left open
_TURNS = 4
"""How many turns a loop needs to learn that a connection was closed: its last bytes, its end, the news of it."""

_of_a_task = contextvars.ContextVar("_of_a_task", default=False)
"""Whether what runs in this context was started by a task's coroutine, not by what that has opened (`shared`)."""


class _Run:
    """One coroutine on its way to its end."""

    __slots__ = ("reason", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.reason: BaseException | None = None  # why it was interrupted

    def interrupt(self, reason: BaseException) -> None:
        """Cancel it; called by the loop. One that has ended is left alone, one yet to begin begins cancelled."""
        self.reason = reason
        if self.task is not None:
            self.task.cancel()


class TaskLoop:
    """The event loop of one thread, and what is open on it."""

    def __init__(self) -> None:
        """Make it in the thread that runs the tasks."""
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._loop.set_task_factory(self._new_task)  # type: ignore[arg-type]  # the stubs want any awaitable
        self._context = contextvars.copy_context()
        self._context.run(forget)
        self._started: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._run: _Run | None = None
        self._awake = False  # this run knows what has happened to connections since the one before it
        self._resources = AsyncExitStack()
        self._opened: dict[Callable[[], AbstractAsyncContextManager[Any]], Any] = {}
        self._opening = asyncio.Lock()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end, as its task: what interrupts the task cancels it.

        Raises:
            SoftTimeLimitExceeded, TaskCancelled: it was interrupted, and has let the `CancelledError` pass.
            CancelledError: it has raised one itself. `concurrent.futures`' one, which is an `Exception`.
        """
        run = self._run = _Run()
        self._awake = False
        context = contextvars.copy_context()
        context.run(_of_a_task.set, True)
        try:
            return self._runner.run(self._main(run, coroutine), context=context)
        except asyncio.CancelledError as exc:
            if run.reason is not None:
                raise run.reason from exc
            raise concurrent.futures.CancelledError(
                "a CancelledError has left the coroutine, and nobody has cancelled its task: catch it where "
                "something else that was cancelled is awaited"
            ) from exc
        finally:
            self._run = None

    def interrupt(self, reason: BaseException) -> bool:
        """Cancel the coroutine that runs, because of `reason`; return whether there is one.

        From a signal's handler in the loop's own thread: the loop is told as another thread would tell it.
        """
        run = self._run
        if run is None:
            return False
        self._loop.call_soon_threadsafe(run.interrupt, reason)
        return True

    async def shared(self, opener: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Return what `opener` has opened on this loop; see the function `shared`."""
        if not self._awake or opener not in self._opened:
            async with self._opening:
                await self._wake_up()
                if opener not in self._opened:
                    # Not in the task's context: whatever this starts lives longer.
                    await self._loop.create_task(self._open(opener), context=self._context.copy())
        opened: T = self._opened[opener]
        return opened

    async def _open(self, opener: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        # Noted here: who waits for it may be cancelled in the very turn in which it is open.
        self._opened[opener] = await self._resources.enter_async_context(opener())

    @property
    def is_running(self) -> bool:
        """Whether its thread is inside one of its coroutines."""
        return self._loop.is_running()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._loop.is_closed()

    def close(self) -> None:
        """End what was interrupted, then close what is open, then the loop; not for longer than `_CLOSING`.

        A loop that runs in another thread is left alone: a worker with the pool `threads` that is to end at once
        does not wait for its tasks.
        """
        if self.is_running:
            _logger.warning("An async task still runs: what it and others have left open is not closed")
            return
        # A loop may run in any thread, and this one can be given up.
        closing = threading.Thread(target=self._close, name="async-celery-closing", daemon=True)
        closing.start()
        closing.join(_CLOSING)
        if closing.is_alive():
            _logger.warning("What async tasks have left open did not close within %g s", _CLOSING)

    def _close(self) -> None:
        try:
            with self._runner:
                self._runner.run(self._close_resources())
        except Exception:
            _logger.exception("What async tasks have left open did not close")

    async def _close_resources(self) -> None:
        # Of a task that the end of its process has interrupted: it may need what is open to clean up.
        await end_tasks(self._started, "The end of this process")
        await self._resources.aclose()

    async def _main(self, run: _Run, coroutine: Coroutine[Any, Any, T]) -> T:
        run.task = asyncio.current_task()
        if run.reason is not None:
            run.interrupt(run.reason)
        try:
            return await coroutine
        finally:
            await end_tasks(self._started)

    async def _wake_up(self) -> None:
        """Let the loop see what has become of open connections while it stood still."""
        if self._opened and not self._awake:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        self._awake = True

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], **options: Any
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        context = options.get("context")
        if _of_a_task.get() if context is None else context.get(_of_a_task):
            self._started.add(task)
        return task


async def end_tasks(started: "WeakSet[asyncio.Task[Any]]", who: str = "") -> None:
    """Cancel what a coroutine has started and not awaited, and wait until it has ended, whatever it takes.

    Args:
        started: the asyncio tasks; the one that asks may be among them.
        who: what ends, for the log; empty for the current task.
    """
    me, interrupted = asyncio.current_task(), False
    while left := [task for task in started if task is not me and not task.done()]:
        for task in left:
            _logger.warning("%s leaves an asyncio task running, which is cancelled: %r", who or _told(), task)
            task.cancel()
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError:
            interrupted = True
    if interrupted:
        raise asyncio.CancelledError


async def shared(opener: Callable[[], AbstractAsyncContextManager[T]]) -> T:
    """Return what `opener` opens: once for all async tasks of this process, and closed when the process ends.

        database = await shared(open_database)  # an async context manager's function

    For what may be used by one task after another and should not be opened for each: connections, clients. It
    belongs to this loop, so to this process: nothing of it crosses a fork.

    Args:
        opener: by which it is known: the same function, not a new lambda, opens nothing again. It is called in
            the task that asks first; should it fail, the next one that asks calls it again.

    Raises:
        RuntimeError: not called in an async task.
    """
    loop = _loop_here()
    if loop is None or not loop.is_running:
        raise RuntimeError("there is no async task here: await `shared` in the coroutine of one")
    return await loop.shared(opener)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a task's coroutine on the loop of this thread, which is made for its first one."""
    return (_loop_here() or _make_loop()).run(coroutine)


def interrupt(reason: BaseException) -> None:
    """End what this thread's task is doing. For handlers of signals.

    Raises:
        BaseException: `reason`, unless a coroutine runs: that is cancelled, and its task ends with `reason`.
    """
    loop = _loop_here()
    if loop is None or not loop.interrupt(reason):
        raise reason


_here = threading.local()
_made: list[TaskLoop] = []
_inherited: list[TaskLoop] = []
"""A parent's, in a process forked from one that has loops: kept, since closing one would reach the parent."""


def use(loop: TaskLoop) -> None:
    """Have this thread's coroutines run there, and it closed with the others."""
    _here.loop = loop
    _made.append(loop)


def _loop_here() -> TaskLoop | None:
    loop: TaskLoop | None = getattr(_here, "loop", None)
    return None if loop is None or loop.is_closed else loop


def _make_loop() -> TaskLoop:
    use(loop := TaskLoop())
    _take_soft_time_limit()
    # When a process of the pool ends; in other pools, the worker.
    signals.worker_process_shutdown.connect(_close_all, dispatch_uid=__name__)
    signals.worker_shutdown.connect(_close_all, dispatch_uid=__name__)
    return loop


def _take_soft_time_limit() -> None:
    """Have the soft time limit cancel coroutines, in a pool's process: there, billiard has its own handler."""
    number = pool.SIG_SOFT_TIMEOUT
    if (
        number is not None
        and signal.getsignal(number) is pool.soft_timeout_sighandler
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(number, _on_soft_time_limit)


def _on_soft_time_limit(*_: object) -> None:
    interrupt(SoftTimeLimitExceeded())


def _close_all(**_: object) -> None:
    while _made:
        _made.pop().close()


def _told() -> str:
    task: Any = get_current_task()
    return "A task" if task is None else f"Task {task.name}[{task.request.id}]"


def _forget_parents() -> None:
    _inherited.extend(_made)
    _made.clear()
    vars(_here).clear()


os.register_at_fork(after_in_child=_forget_parents)
