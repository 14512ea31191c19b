"""A real Celery worker for the API's tests: the contracts' names over functions that do as they are told.

Loaded by `celery -A worker_app:app worker`. The real worker is tested in project-worker, both together in e2e.
"""

import os
import signal
import tempfile
import time
from pathlib import Path

from celery import Celery
from pydantic_settings import BaseSettings

from async_celery.queues import work_queue
from async_celery.worker import Policy, install
from project_contracts.connections import Connections
from project_contracts.integers import INTEGER_MULTIPLICATION, INTEGERS_SUM
from project_contracts.queues import PROJECT_WORKER, QUEUES

FAIL, SLEEP, NOT_A_NUMBER, HUGE, DIE = 500, 600, 700, 800, 900  # multiplicands with a meaning of their own


def cure_of(multiplier: int) -> Path:
    """The file that keeps the task DIE × `multiplier` alive."""
    return Path(tempfile.gettempdir()) / f"api-tests-cure-{os.getuid()}-{multiplier}"


class TooSmallError(ValueError):
    """An error with a code."""

    code = "too-small"


class Settings(Connections, BaseSettings):
    """Addresses from the environment."""


settings = Settings()
app = Celery("worker_app", broker=settings.broker, backend=settings.backend)
app.conf.update(
    task_default_queue=PROJECT_WORKER,
    task_queues=[work_queue(q.name, max_length=q.max_length, delivery_limit=q.delivery_limit) for q in QUEUES],
    result_extended=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
)
install(app, Policy(max_attempts=2, cancel_check_interval=0.2))


@app.task(name=INTEGER_MULTIPLICATION.name)
def integer_multiplication(multiplicand: int, multiplier: int) -> float:
    """Multiply, fail, sleep `multiplier` milliseconds, return NaN or 4401 digits, die."""
    if multiplicand == FAIL:
        raise (TooSmallError if multiplier < 0 else ValueError)(f"told to fail with {multiplier}")
    if multiplicand == DIE and not cure_of(multiplier).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if multiplicand == SLEEP:
        time.sleep(multiplier / 1000)
    if multiplicand == NOT_A_NUMBER:
        return float("nan")
    if multiplicand == HUGE:
        return 10**4400
    return multiplicand * multiplier


@app.task(name=INTEGERS_SUM.name)
def integers_sum(integers: list[int]) -> int:
    """Add up."""
    return sum(integers)
