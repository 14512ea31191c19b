"""Loops, in this very process: its coroutines run in the test's main thread, as in a process of the pool."""

import asyncio
import concurrent.futures
import contextvars
import logging
import os
import random
import signal
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from billiard import pool
from celery import current_task
from celery._state import _task_stack  # type: ignore[attr-defined]  # older stubs
from celery.exceptions import SoftTimeLimitExceeded

from async_celery.worker import TaskCancelled, loops, shared
from async_celery.worker.coroutines import blocking

variable = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
def own_loop() -> Iterator[None]:
    """No test finds the loop of another; what is left open shows as a warning."""
    before = signal.signal(signal.SIGUSR1, pool.soft_timeout_sighandler)
    yield
    loops._close_all()
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def soft_limit() -> Iterator[Any]:
    """Return a function that has this process's soft time limit end in so many seconds."""
    timers = []

    def arm(seconds: float) -> None:
        timer = threading.Timer(seconds, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
        timers.append(timer)
        timer.start()

    yield arm
    for timer in timers:
        timer.join()


async def loop_id() -> int:
    return id(asyncio.get_running_loop())


def test_all_coroutines_of_a_thread_share_a_loop() -> None:
    assert len({loops.run(loop_id()) for _ in range(5)}) == 1


def test_each_thread_has_its_own() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        others = {threads.submit(lambda: loops.run(loop_id())).result() for _ in range(3)}
    assert len(others | {loops.run(loop_id())}) == 2


def test_exception_keeps_its_traceback() -> None:
    async def body() -> None:
        await asyncio.sleep(0)
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom") as caught:
        loops.run(body())
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "body"


# ---- interrupted ----


def test_soft_time_limit_cancels_where_the_coroutine_awaits(soft_limit: Any) -> None:
    seen: list[object] = []

    async def body() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as exc:
            seen.append(type(exc))
            raise
        finally:
            await asyncio.sleep(0.01)
            seen.append("cleaned up")

    loops.run(loop_id())  # from the first coroutine on, the handler is ours
    soft_limit(0.05)
    with pytest.raises(SoftTimeLimitExceeded) as caught:
        loops.run(body())
    assert seen == [asyncio.CancelledError, "cleaned up"]
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert loops.run(asyncio.sleep(0.01, "the next one is not hit")) == "the next one is not hit"


def test_many_interruptions_never_break_the_loop(soft_limit: Any) -> None:
    """The signal comes anywhere: in the loop's own code, before the coroutine begins, after it has ended."""

    async def busy(seconds: float) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # noqa: ASYNC110 (it is the turns that count)
            await asyncio.sleep(0)  # as many turns of the loop as there can be
        return "ended"

    def a_timer_is_due() -> bool:
        return any(isinstance(thread, threading.Timer) for thread in threading.enumerate())

    loops.run(loop_id())
    moments, outcomes = random.Random(6), Counter[str]()
    deadline = time.monotonic() + 20
    while outcomes.total() < 60 or not outcomes.keys() >= {"ended", "interrupted"}:
        assert time.monotonic() < deadline, outcomes
        with suppress(SoftTimeLimitExceeded):  # between two coroutines it is raised, as in a function
            soft_limit(moments.uniform(0, 0.012))
            try:
                outcomes[loops.run(busy(0.006))] += 1
            except SoftTimeLimitExceeded as exc:
                outcomes["interrupted" if exc.__cause__ else "raised"] += 1
            while a_timer_is_due():
                time.sleep(0.001)
    assert loops.run(asyncio.sleep(0.01, "well")) == "well"


def test_what_the_coroutine_makes_of_it_stands(soft_limit: Any) -> None:
    async def body() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "partial"
        raise AssertionError

    loops.run(loop_id())
    soft_limit(0.05)
    assert loops.run(body()) == "partial"


def test_interrupted_before_it_begins_it_begins_so() -> None:
    seen = []

    async def body() -> None:
        seen.append("begun")
        await asyncio.sleep(30)

    loops.run(loop_id())
    loop = loops._here.loop
    begin = loop._main

    def interrupted_first(*args: Any) -> Any:
        loops.interrupt(TaskCancelled("stop"))
        return begin(*args)

    loop._main = interrupted_first
    with pytest.raises(TaskCancelled, match="stop"):
        loops.run(body())
    assert seen == ["begun"]


def test_interrupted_as_it_ends_nothing_else_is_hit() -> None:
    late: list[Any] = []

    async def body() -> None:
        late.append(loops._here.loop._run)

    loops.run(body())
    loops._here.loop._loop.call_soon_threadsafe(late[0].interrupt, TaskCancelled("late"))
    assert loops.run(asyncio.sleep(0.01, "not hit")) == "not hit"


def test_nothing_runs_so_it_is_raised() -> None:
    with pytest.raises(TaskCancelled):
        loops.interrupt(TaskCancelled("stop"))
    loops.run(loop_id())
    with pytest.raises(TaskCancelled):
        loops.interrupt(TaskCancelled("stop"))


def test_a_cancellation_that_nobody_asked_for_is_an_error() -> None:
    async def body() -> None:
        other = asyncio.create_task(asyncio.sleep(30))
        asyncio.get_running_loop().call_soon(other.cancel)
        await other

    with pytest.raises(concurrent.futures.CancelledError, match="nobody has cancelled its task") as caught:
        loops.run(body())
    assert isinstance(caught.value, Exception)


# ---- what a coroutine leaves ----


def test_what_was_started_and_not_awaited_ends_with_it(caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    async def wait(name: str) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.01)
            ended.append(name)

    async def body() -> str:
        tasks = [asyncio.create_task(wait(name), name=name) for name in ("one", "two")]
        await asyncio.sleep(0)
        return f"{len(tasks)} left"

    with caplog.at_level(logging.WARNING):
        assert loops.run(body()) == "2 left"
    assert sorted(ended) == ["one", "two"]
    assert "leaves an asyncio task running" in caplog.text
    assert "name='one'" in caplog.text
    caplog.clear()
    loops.run(loop_id())
    assert caplog.text == ""


def test_it_is_waited_for_whatever_it_takes(soft_limit: Any) -> None:
    ended = []

    async def stubborn() -> None:
        for _ in range(3):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)
        ended.append("stubborn")

    async def body() -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        del task

    loops.run(loop_id())
    soft_limit(0.05)
    with pytest.raises(SoftTimeLimitExceeded):
        loops.run(body())
    assert ended == ["stubborn"]


def test_context_is_copied_in_and_not_out() -> None:
    async def body() -> str:
        found = variable.get()
        variable.set("of the body")
        return found

    def call() -> tuple[str, str]:
        variable.set("of the caller")
        return loops.run(body()), variable.get()

    assert contextvars.copy_context().run(call) == ("of the caller", "of the caller")
    assert loops.run(body()) == loops.run(body()) == "unset"


def test_current_task_is_known_in_the_coroutine_and_in_no_other_thread() -> None:
    async def body() -> tuple[bool, bool]:
        return bool(current_task), await asyncio.to_thread(bool, current_task)

    _task_stack.push(SimpleNamespace(name="it"))
    try:
        assert loops.run(body()) == (True, False)
    finally:
        _task_stack.pop()


# ---- shared ----


class Opener:
    """Counts; what it opens runs something in the background."""

    def __init__(self) -> None:
        self.opened = self.closed = self.beats = 0
        self.broken = False

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator["Opener"]:
        if self.broken:
            raise ConnectionError("away")
        await asyncio.sleep(0.01)
        self.opened += 1
        beating = asyncio.create_task(self._beat())
        yield self
        beating.cancel()
        self.closed += 1

    async def _beat(self) -> None:
        while True:
            self.beats += 1
            await asyncio.sleep(0.001)


def test_what_is_shared_is_opened_once_and_closed_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    opener = Opener()

    async def body() -> bool:
        one, other = await asyncio.gather(shared(opener), shared(opener))
        await asyncio.sleep(0.01)
        return one is other is opener

    assert loops.run(body())
    beats = opener.beats
    assert loops.run(body())
    assert (opener.opened, opener.closed) == (1, 0)
    # What it has started is not the task's.
    assert opener.beats > beats
    assert caplog.text == ""
    loops._close_all()
    assert (opener.opened, opener.closed) == (1, 1)


def test_what_could_not_be_opened_is_tried_again() -> None:
    opener = Opener()
    opener.broken = True
    with pytest.raises(ConnectionError):
        loops.run(shared(opener))
    opener.broken = False
    assert loops.run(shared(opener)) is opener


def test_what_is_open_when_its_task_is_cancelled_is_known_to_the_next() -> None:
    opener = Opener()

    async def body() -> Opener:
        asking = asyncio.create_task(shared(opener))
        while not opener.opened:  # noqa: ASYNC110 (it is the very turn that counts)
            await asyncio.sleep(0)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        return await shared(opener)

    assert loops.run(body()) is opener
    assert opener.opened == 1


async def test_nothing_is_shared_outside_a_task() -> None:
    with pytest.raises(RuntimeError, match="no async task here"):
        await shared(Opener())


def test_it_is_known_at_once_that_a_connection_was_closed_between_two_tasks() -> None:
    ours, theirs = socket.socketpair()

    @asynccontextmanager
    async def connected() -> AsyncIterator[asyncio.StreamReader]:
        reader, writer = await asyncio.open_connection(sock=ours)
        yield reader
        writer.close()

    async def is_closed() -> bool:
        return (await shared(connected)).at_eof()

    assert not loops.run(is_closed())
    theirs.send(b"good bye")
    theirs.close()

    async def reads_what_is_left() -> tuple[bytes, bool]:
        _, reader = await asyncio.gather(shared(connected), shared(connected))
        return reader._buffer, reader._eof  # type: ignore[attr-defined]  # what has arrived, without waiting

    assert loops.run(reads_what_is_left()) == (b"good bye", True)


def test_the_end_of_the_process_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loops, "_CLOSING", 0.05)
    released = threading.Event()

    @asynccontextmanager
    async def stuck() -> AsyncIterator[None]:
        yield
        released.wait()

    loops.run(shared(stuck))
    loop = loops._here.loop
    loops._close_all()
    assert "did not close within 0.05 s" in caplog.text
    released.set()
    while not loop.is_closed:
        time.sleep(0.001)


def test_a_coroutine_that_still_runs_in_another_thread_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    begun, released = threading.Event(), threading.Event()

    async def body() -> str:
        begun.set()
        await asyncio.to_thread(released.wait, 10)
        return "well"

    def run() -> str:
        try:
            return loops.run(body())
        finally:
            loops._here.loop.close()

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        result = threads.submit(run)
        begun.wait(10)
        loops._close_all()
        released.set()
        assert result.result(10) == "well"
    assert "still runs" in caplog.text


def test_what_does_not_close_is_told(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        yield
        raise OSError("gone")

    loops.run(shared(broken))
    loops._close_all()
    assert "OSError: gone" in caplog.text


def test_a_task_that_the_process_s_end_interrupts_cleans_up_before_what_it_uses_is_closed() -> None:
    order = []

    @asynccontextmanager
    async def used() -> AsyncIterator[None]:
        yield
        order.append("closed")

    async def body() -> None:
        await shared(used)
        try:
            asyncio.get_running_loop().call_later(0.01, exit_process)
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0)
            order.append("cleaned up")

    def exit_process() -> None:
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        loops.run(body())
    loops._close_all()
    assert order == ["cleaned up", "closed"]


def test_nothing_crosses_a_fork() -> None:
    opener = Opener()
    loops.run(shared(opener))
    own = loops._here.loop
    pid = os.fork()
    if pid == 0:
        try:
            its_own = loops.run(shared(opener)) is opener and loops._here.loop is not own
            loops._close_all()
            os._exit(0 if (its_own, opener.opened, opener.closed) == (True, 2, 1) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (loops._here.loop, opener.opened, opener.closed) == (own, 1, 0)
    assert loops.run(shared(opener)) is opener


async def test_no_loop_is_blocked_by_another() -> None:
    async def body() -> None: ...

    with pytest.raises(RuntimeError, match="body is an async task, and an event loop runs here already"):
        blocking(body)()
