"""What every contender speaks: one JSON command in, JSON lines out, and the same way of measuring for all.

How it works: the harness starts `python contender.py '{"row": ..., ...}'` in the contender's own environment. The
contender does the row and prints its answer as one JSON line; long-running ones (waiters, servers, workers) print
a first line when they are ready. A worker that hands over to its framework's own command line (`become`) finds
the command again in the environment, because that command line has arguments of its own.

All contenders run on the standard library's event loop, except under uvicorn, and are measured by this file: time
by `perf_counter`, CPU by `process_time` (all threads of the process), loop lag by a 2 ms timer. Before the clock
starts, a process is brought to the state of a server that has run for a while (`settle`).

What belongs here: the protocol and the measuring. Standard library only: it is on the path of every environment.
"""

import asyncio
import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_VARIABLE = "BENCH_COMMAND"
_LAG_PERIOD = 0.002  # s between two looks at the loop's clock; more often would show in the CPU time per task
_WARM_UP = 20  # sends before the clock starts: connections, declarations and caches are made once per process


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to do; each row uses the fields that it needs.

    `broker`, `backend` and `database` are URLs. `levels` are numbers of concurrent senders, one after the other,
    each for `seconds`. `count` is a number of tasks, waiters or rows, `pace` how many results per second are
    published. A request without a `body` is a GET; what stands for a number in a body is `first`, and one more in
    each request; each must be answered with the status `expected`. `folder` is where files go.
    """

    row: str
    way: str = ""
    broker: str = ""
    backend: str = ""
    queue: str = ""
    queue_type: str = "classic"
    levels: Sequence[int] = ()
    seconds: float = 0.0
    count: int = 0
    pace: float = 0.0
    port: int = 0
    path: str = "/"
    paths: Sequence[str] = ()
    body: str = ""
    first: int = 0
    expected: int = 202
    database: str = ""
    folder: str = ""
    pool: str = "prefork"
    concurrency: int = 1
    prefetch: int = 4
    events: bool = False
    ignore_result: bool = False
    timeout: float = 120.0


def command() -> Command:
    """Return the command that this process was started with."""
    data = json.loads(os.environ.get(_VARIABLE) or sys.argv[1])
    known = {field.name for field in fields(Command)}
    return Command(**{key: value for key, value in data.items() if key in known})


def say(answer: Mapping[str, Any]) -> None:
    """Print one line for the harness."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def hear() -> dict[str, Any]:
    """Wait for one line of the harness."""
    return dict(json.loads(sys.stdin.readline()))


def main(rows: Mapping[str, Callable[[Command], Mapping[str, Any] | None]]) -> None:
    """Do the row that the command names, and answer.

    Args:
        rows: What this contender can do; a function that answers by itself returns None.
    """
    asked = command()
    answer = rows[asked.row](asked)
    if answer is not None:
        say(answer)


def become(*words: str) -> None:
    """Replace this process by `python -m WORDS`, a framework's own worker; it finds our command again."""
    os.execve(sys.executable, [sys.executable, "-m", *words], {**os.environ, _VARIABLE: sys.argv[1]})  # noqa: S606 (no shell is what is wanted)


def task_id(index: int) -> str:
    """Return the id of the task with this argument, in rows where the harness must find its result by itself."""
    return f"00000000-0000-4000-8000-{index:012x}"


def paced(ids: Sequence[str], pace: float) -> Iterator[str]:
    """Yield the ids, `pace` of them per second, evenly."""
    begin = time.monotonic()
    for number, one in enumerate(ids):
        time.sleep(max(0.0, begin + number / pace - time.monotonic()))
        yield one


def settle() -> None:
    """Bring a process to the state that a server is in after a while.

    The garbage collector is to leave alone what is there: it would look through all of it, again and again, and a
    process that has imported Celery, or FastAPI, stands still for 25 ms and longer each time.

    And freed memory is to be kept. glibc gives blocks of over 128 KiB back to the system until it has seen one of
    that size freed that it had given; asyncio takes 256 KiB for every read, which costs a process that has
    imported little two page faults each time, 15 µs.
    """
    gc.collect()
    gc.freeze()
    bytearray(_LARGER_THAN_A_READ)  # is freed at once


_LARGER_THAN_A_READ = 1 << 20  # bytes


class LoopLag:
    """The longest time, in s, by which a 2 ms timer was late: how long anything else on the loop had to wait."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "LoopLag":
        self._next()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(_LAG_PERIOD)  # a loop that was blocked to the very end shows it now
        if self._timer is not None:
            self._timer.cancel()

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + _LAG_PERIOD
        self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self.longest = max(self.longest, asyncio.get_running_loop().time() - self._due)
        self._next()


async def enqueue(asked: Command, send: Callable[[], Awaitable[object]]) -> dict[str, Any]:
    """Send as fast as possible, with each number of concurrent senders for the asked time.

    Args:
        asked: `levels` and `seconds` count.
        send: sends one task and returns when it is confirmed.

    Returns:
        For each level: `sent`, `seconds` until the last confirm, `cpu` seconds, `lag` in seconds. `total` is what
        must now be in the queue.
    """
    for _ in range(_WARM_UP):
        await send()
    settle()
    levels = [await _burst(send, senders, asked.seconds) for senders in asked.levels]
    return {"levels": levels, "total": _WARM_UP + sum(level["sent"] for level in levels)}


async def _burst(send: Callable[[], Awaitable[object]], senders: int, seconds: float) -> dict[str, Any]:
    end = time.perf_counter() + seconds

    async def sender() -> int:
        for sent in itertools.count(1):
            await send()
            if time.perf_counter() >= end:
                return sent
        raise AssertionError

    begin, cpu = time.perf_counter(), time.process_time()
    async with LoopLag() as lag:
        sent = sum(await asyncio.gather(*(sender() for _ in range(senders))))
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {"senders": senders, "sent": sent, "seconds": took, "cpu": cpu, "lag": lag.longest}


async def round_trips(asked: Command, call: Callable[[int], Awaitable[object]]) -> dict[str, Any]:
    """Send tasks and wait for each one's result, with each number of concurrent callers for the asked time.

    Args:
        asked: `levels` and `seconds` count.
        call: sends the task with this argument and returns its result, which must be the argument.

    Returns:
        For each level: `done`, `seconds`, and the `latencies` in seconds.

    Raises:
        AssertionError: A result was not that of its task.
    """
    numbers = itertools.count()
    for _ in range(3):
        await _checked(call, next(numbers))
    settle()
    levels = []
    for callers in asked.levels:
        latencies: list[float] = []
        begin = time.perf_counter()
        await asyncio.gather(*(_caller(call, numbers, latencies, begin + asked.seconds) for _ in range(callers)))
        took = time.perf_counter() - begin
        levels.append({"callers": callers, "done": len(latencies), "seconds": took, "latencies": latencies})
    return {"levels": levels}


async def _caller(
    call: Callable[[int], Awaitable[object]], numbers: "itertools.count[int]", latencies: list[float], end: float
) -> None:
    while True:
        begin = time.perf_counter()
        await _checked(call, next(numbers))
        now = time.perf_counter()
        latencies.append(now - begin)
        if now >= end:
            return


async def _checked(call: Callable[[int], Awaitable[object]], number: int) -> None:
    result = await call(number)
    if result != number:
        raise AssertionError(f"the result of task {number} is {result!r}")


async def wait_for_all(asked: Command, ids: Sequence[str], wait: Callable[[str], Awaitable[object]]) -> None:
    """Wait for many results that come later; answers twice: when all are waited for, and when all have come.

    Each result is the publisher's monotonic clock, which is the same in all processes of a machine: the delay
    from there to the waiter's next line is the wake-up.

    Args:
        asked: `timeout` counts.
        ids: Of the tasks, all different.
        wait: waits for one task and returns its result.
    """

    async def waiter(one: str) -> float:
        published = float(str(await wait(one)))
        return time.monotonic() - published

    async with asyncio.timeout(asked.timeout):
        waiters = [asyncio.create_task(waiter(one)) for one in ids]
        await asyncio.sleep(0)  # every waiter has begun
        say({"ready": True, "ids": list(ids)})
        say({"delays": await asyncio.gather(*waiters)})


async def backlog(asked: Command, send: Callable[[], Awaitable[object]]) -> dict[str, Any]:
    """Send many tasks that nobody takes out, 50 at a time; compare the first tenth with the last.

    Args:
        asked: `count` counts.
        send: sends one task and returns when it is confirmed.

    Returns:
        `early` and `late` rates in tasks/s, from 1,000 queued tasks on and at the end; the resident memory in
        bytes after each; `total` is what must now be in the queue.
    """
    window = asked.count // 10
    await _send_all(send, 1000)
    early = await _send_all(send, window)
    early_memory = resident_memory()
    await _send_all(send, asked.count - 1000 - 2 * window)
    late = await _send_all(send, window)
    return {
        "early": early,
        "late": late,
        "early_memory": early_memory,
        "late_memory": resident_memory(),
        "total": asked.count,
    }


async def _send_all(send: Callable[[], Awaitable[object]], count: int) -> float:
    left = iter(range(count))

    async def sender() -> None:
        for _ in left:
            await send()

    begin = time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(50)))
    return count / (time.perf_counter() - begin)


def resident_memory() -> int:
    """Return this process' resident memory in bytes (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
