"""The tasks of `fault_contracts`, on the project's own app: `celery -A fault_app:app worker`.

How it works: the app is made as the worker makes it. Only the replacement of dead children is quicker.

What belongs here: tasks that do nothing but be counted; what happens to them is the tests' doing.
"""

import time

import celery
from celery.concurrency.asynpool import AsynPool
from fault_contracts import FAIL, PLUS, STUMBLE, TOTAL, WORK
from oracle import Oracle

from worker.config import load_settings
from worker.main import create_app
from worker.tasks.binding import TaskBinder

# A child that died is replaced when its end is noticed; where Celery looks too early, when it looks again: after
# 5 s, which tests need not wait.
_timers = property(lambda pool: {pool.maintain_pool: 0.2})
AsynPool.timers = _timers  # type: ignore[method-assign,assignment]  # celery-types takes it for a method

settings = load_settings()
app = create_app(settings)
task = TaskBinder(app=app, settings=settings)


def _witness(log: str) -> int:
    """Tell the oracle that a run begins; return which it is by Celery's own count of retries."""
    request = celery.current_task.request
    run = int(request.retries) + 1
    Oracle(log).note(str(request.id), run)
    return run


@task(WORK)
def work(log: str, seconds: float, value: int) -> int:
    """Take time, so that something can happen meanwhile."""
    _witness(log)
    time.sleep(seconds)
    return value


@task(STUMBLE)
def stumble(log: str, seconds: float, value: int) -> int:
    """Fail once in a way that is retried."""
    if _witness(log) == 1:
        raise ConnectionError("not yet")
    time.sleep(seconds)
    return value


@task(FAIL)
def fail(log: str) -> int:
    """Fail for good."""
    _witness(log)
    raise ValueError("this will never work")


@task(PLUS)
def plus(value: int, log: str, amount: int) -> int:
    """A step of a chain."""
    _witness(log)
    return value + amount


@task(TOTAL)
def total(values: list[int], log: str) -> int:
    """The body of a chord."""
    _witness(log)
    return sum(values)
