"""A real Celery worker for the API's tests: the contracts' names over functions that do as they are told.

Loaded by `celery -A worker_app:app worker`. The real worker is tested in project-worker, both together in e2e.
"""

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import database
from celery import Celery
from pydantic_settings import BaseSettings

from async_celery.queues import work_queue
from async_celery.worker import Policy, install
from project_contracts.connections import Connections
from project_contracts.imports import FINISH_IMPORT, LOAD_PART
from project_contracts.integers import INTEGER_MULTIPLICATION, INTEGERS_SUM
from project_contracts.queues import PROJECT_WORKER, QUEUES

FAIL, SLEEP, NOT_A_NUMBER, HUGE, DIE = 500, 600, 700, 800, 900  # multiplicands with a meaning of their own
SLOW_PART = 2  # of an import, from 0


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


@app.task(name=LOAD_PART.name)
def load_part(import_id: str, part: int, parts: int) -> None:
    """Count the part's rows, as if each had been inserted; the part SLOW_PART does not come to that."""
    if part == SLOW_PART:
        time.sleep(60)
    database.run(
        "INSERT INTO import_parts (import_id, part, read, inserted, updated, unchanged, rejected)"
        " SELECT i.id, $2::int, count(r), count(r) FILTER (WHERE r.error IS NULL), 0, 0, count(r.error)"
        " FROM imports i LEFT JOIN import_rows r ON r.import_id = i.id"
        " AND r.position >= i.staged * $2::int / $3::int AND r.position < i.staged * ($2::int + 1) / $3::int"
        " WHERE i.id = $1 GROUP BY i.id",
        import_id,
        part,
        parts,
    )


@app.task(name=FINISH_IMPORT.name)
def finish_import(import_id: str) -> dict[str, object]:
    """Sum up the parts."""
    ((counts,),) = database.run(
        "UPDATE imports SET finished_at = now(), result = jsonb_build_object('countries', NULL, 'cities', ("
        "SELECT jsonb_build_object('read', sum(read), 'inserted', sum(inserted), 'updated', 0, 'unchanged', 0,"
        " 'rejected', sum(rejected)) FROM import_parts WHERE import_id = $1)) WHERE id = $1 RETURNING result",
        import_id,
    )
    report: dict[str, object] = json.loads(counts)
    return report
