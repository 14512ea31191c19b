"""The tests' app with tasks that end badly, and with a worker that dies where it sends a task.

How it works: tasks and faults are added to `tasks_app`'s app. A fault is a file that a test makes, for any task
or, with `-ID` after its name, for one; the process that gets to remove it dies there.

What belongs here: what the tests of the result backend need of a worker.
"""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from celery import Task, current_task
from celery.concurrency.asynpool import AsynPool

from ..oracle import Oracle
from .tasks_app import app

FOLDER = "BACKEND_FOLDER"
"""The environment variable with the folder of the log of runs, `runs`, and of the faults `before` and `after`."""

# Dead children are replaced when their end is noticed; where Celery looks too early, after 5 s, which tests need
# not wait.
AsynPool.timers = property(lambda pool: {pool.maintain_pool: 0.2})  # type: ignore[method-assign,assignment]

_folder = Path(os.environ[FOLDER])
_oracle = Oracle(_folder / "runs")


class TwoArgumentsError(Exception):
    """Cannot be pickled."""

    code = "two"

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@app.task(name="raise_unpicklable", shared=False)
def raise_unpicklable() -> None:
    raise TwoArgumentsError(1, 2)


@app.task(name="raise_unregistered", shared=False)
def raise_unregistered() -> None:
    raise type("MadeUpError", (Exception,), {"__module__": "nowhere"})("x" * 100_000)


@app.task(name="give", shared=False)
def give(what: str) -> Any:
    """Return what cannot be stored."""
    return {"object": object(), "nan": float("nan"), "digits": 10**5000, "key": {(1, 2): 3}}[what]


@app.task(name="fill", shared=False)
def fill(size: int) -> str:
    return "x" * size


@app.task(name="unlucky", shared=False, bind=True)
def unlucky(self: "Task[Any, Any]", number: int) -> int:
    """Return `number`; an even one's first run kills its process soon, whatever that does then."""
    first_run = not _oracle.executions(self.request.id)
    _oracle.note(self.request.id or "")
    if first_run and number % 2 == 0:
        delay = random.uniform(0, 0.002)
        threading.Thread(target=_die, args=(delay,), daemon=True).start()
    return number


@app.task(name="give_number", shared=False)
def give_number(number: int) -> int:
    return number


@app.task(name="sum_up", shared=False, bind=True)
def sum_up(self: "Task[Any, Any]", numbers: list[int]) -> int:
    _oracle.note(self.request.id or "")
    return sum(numbers)


@app.task(name="count_up", shared=False, bind=True)
def count_up(self: "Task[Any, Any]", number: int) -> int:
    """Return the next number."""
    _oracle.note(self.request.id or "")
    return number + 1


def _die(delay: float = 0) -> None:
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


def _die_if_told(where: str) -> None:
    # A chord's body is sent when its member is no more the current task.
    for name in (where, f"{where}-{current_task.request.id}" if current_task else where):
        try:
            (_folder / name).unlink()
        except FileNotFoundError:
            continue
        _die()


# Celery's type stubs are older than it is.
_amqp: Any = app.amqp
_send = _amqp._retry_publish


def _send_and_die(publish: Any, *args: Any, **kwargs: Any) -> Any:
    _die_if_told("before")
    answer = _send(publish, *args, **kwargs)
    _die_if_told("after")
    return answer


_amqp._retry_publish = _send_and_die
