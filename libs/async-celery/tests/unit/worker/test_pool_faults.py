"""The pool in a storm: what each task's end must be, whatever happens to its process or to the loop.

How it works: a seeded run gives tasks of all kinds and lengths to a pool of three processes, while processes are
killed, tasks are ended by force and the connection is lost. Each task that begins writes its number into a file.
At the end each has ended once, as what was done to it says, and has run no more often than it was given.
`POOL_SEED` repeats a run.
"""

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, WorkerLostError

from .running_pool import Given, Running

SEEDS = [int(seed) for seed in os.environ.get("POOL_SEED", "1 2 3").split()]
TASKS = 600
MOST_WAITING = 6


def work(number: int, runs: str, seconds: float, size: int, _: bytes) -> tuple[int, bytes]:
    """Write down that the task has begun, take so long, and return so much."""
    file = os.open(runs, os.O_WRONLY | os.O_APPEND)
    os.write(file, number.to_bytes(4, "big"))
    os.close(file)
    time.sleep(seconds)
    return number, bytes(size)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_task_ends_once_as_what_was_done_to_it_says(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    runs = tmp_path / "runs"
    runs.touch()
    # Also where processes end by themselves.
    running = Running(3, maxtasksperchild=None if seed % 2 else 15)
    given: dict[int, Given] = {}
    forgotten: set[int] = set()
    may_be_lost: set[int] = set()
    may_be_terminated: set[int] = set()
    accepted_of: dict[Any, int] = {}

    def give() -> None:
        number = len(given)
        seconds = dice.choice([0, 0, 0, 0, 0.001, 0.005, 0.03, 0.1])
        payload = bytes(dice.choice([0, 0, 0, 0, 5_000, 200_000]))
        size = dice.choice([0, 0, 0, 0, 5_000, 200_000])
        given[number] = running.give(work, number, str(runs), seconds, size, payload)
        accepted_of[given[number].job._job] = number

    def at_process(pid: int) -> set[int]:
        return {
            number for number, task in given.items() if task.result is None and task.job._worker_pid == pid
        } | {
            accepted_of[process.ahead._job]
            for process in running.pool._pool
            if process.pid == pid and process.ahead is not None
        }

    def kill() -> None:
        # Also several at once: the end of one is seen while the other's is cleaned up after.
        dying = min(dice.choice([1, 1, 2, 3]), len(running.pool._pool))
        for process in dice.sample(running.pool._pool, dying):
            may_be_lost.update(at_process(process.pid))
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def end_by_force() -> None:
        begun = [
            number
            for number, task in given.items()
            if task.result is None and task.job._accepted and task.job._job in running.pool._cache
        ]
        if begun:
            number = dice.choice(begun)
            may_be_terminated.add(number)
            running.pool.terminate_job(given[number].job._worker_pid, signal.SIGKILL)

    def lose_the_connection() -> None:
        running.hub.reset()
        running.pool.flush()
        forgotten.update(
            number
            for number, task in given.items()
            if task.result is None and task.job._job not in running.pool._cache
        )
        running.pool.register_with_event_loop(running.hub)
        running.hub.call_repeatedly(0.02, lambda: None)
        running._loop = running.hub.create_loop()

    try:
        while len(given) < TASKS:
            for _ in range(dice.choice([1, 1, 2, 5, 20])):
                # As the worker's semaphore has it.
                if len(running.pool.outbound_buffer) < MOST_WAITING:
                    give()
            for _ in range(dice.choice([0, 1, 1, 2, 5])):
                running.turn()
            happens = dice.random()
            if happens < 0.03:
                kill()
            elif happens < 0.06:
                end_by_force()
            elif happens < 0.065:
                lose_the_connection()
            elif happens < 0.3:
                running.turn_for(dice.choice([0.001, 0.01, 0.03]))
        running.until(
            lambda: all(task.result is not None or number in forgotten for number, task in given.items())
        )
        ran = Counter(int.from_bytes(chunk, "big") for chunk in _chunks(runs.read_bytes()))
        assert not running.pool._ahead
        assert not running.pool._busy_workers
        assert not running.pool._cache
    finally:
        running.close()

    ends: Counter[str] = Counter()
    for number, task in given.items():
        if number in forgotten:
            assert task.result is None, number
            ends["forgotten"] += 1
            continue
        match task.result[0]:
            case ExceptionInfo(type=kind):
                if kind is WorkerLostError:
                    assert number in may_be_lost, number
                else:
                    assert kind is Terminated, (number, kind)
                    assert number in may_be_terminated, number
                ends[kind.__name__] += 1
            case (returned, bytes()):
                assert returned == number
                assert ran[number] == 1, number
                ends["result"] += 1
    # What is run by nobody is not lost; what has ended in a process has run there once.
    assert max(ran.values()) == 1
    assert ends.total() == len(given)
    assert ends["result"] > TASKS / 2, ends


def _chunks(data: bytes) -> list[bytes]:
    return [data[at : at + 4] for at in range(0, len(data), 4)]
