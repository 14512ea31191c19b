"""Observed worker: how fast project-worker runs tasks with all that observes it, and how fast without.

How it works: the queue is filled, then the worker started, as in `drain.py`. Observed, it serves its metrics,
writes one JSON line per task, and the tasks belong to a request; otherwise it does nothing of that. Its metrics
must have counted every task. What they cost beside the rate is looked up when the tasks have run.

What belongs here: the worker's part of the row `observability`.
"""

import re
import time
import urllib.request
from functools import partial

from stack import ports
from stack.bench import product
from stack.bench.contenders import WORKER, ContenderError
from stack.bench.lab import Lab
from stack.bench.row import Column, Found, Scale, Standing, Table, Turn
from stack.bench.rows.drain import rate

CASE = "tasks"
OBSERVED = WORKER.name
UNOBSERVED = f"{WORKER.name}, not observed"
METERED = f"{WORKER.name}, metrics alone"

_DATABASE = "bench_observed"
_REQUEST = "00000000-0000-4000-8000-000000000000"
_SCRAPES = 10
_SUCCESS = re.compile(r'^celery_worker_tasks_finished_total\{.*state="success".*\} (\S+)$', re.MULTILINE)
_QUIET = {"WORKER_METRICS_PORT": "0", "LOG_LEVEL": "WARNING"}

TABLE = Table(
    title="worker: tasks/s, and what its metrics cost",
    columns=(
        Column(title="tasks/s", case=CASE, metric="tasks/s"),
        Column(title="CPU, us/task", case=CASE, metric="CPU us/task"),
        Column(title="MiB, all processes", case=CASE, metric="MiB", digits=1),
        Column(title="series", case=CASE, metric="series"),
        Column(title="scrape, ms", case=CASE, metric="scrape ms", digits=1),
    ),
)


def turns(scale: Scale) -> list[Turn]:
    """Return the worker's turns."""
    count = scale.pick(1000, 5000)
    return [
        Turn(contender=name, case=CASE, round=number, act=partial(_act, name=name, count=count))
        for number in range(scale.pick(1, 4))
        for name in (OBSERVED, METERED, UNOBSERVED)
    ]


def _act(lab: Lab, _: Standing, *, name: str, count: int) -> Found:
    lab.database.make(_DATABASE)
    (port,) = ports.pick_free(1)
    settings, request = _QUIET, []
    if name != UNOBSERVED:
        settings = _QUIET | {"WORKER_METRICS_PORT": str(port)}
    if name == OBSERVED:
        settings, request = settings | {"LOG_LEVEL": "INFO", "LOG_FORMAT": "json"}, [_REQUEST]
    with product.worker(lab, _DATABASE, settings, queued=[str(count), *request]) as worker:
        begun = product.cpu(worker.pid)
        found = {
            "tasks/s": rate(lambda: lab.store.keys() - 1, count, worker),  # the other key is the history
            "CPU us/task": (product.cpu(worker.pid) - begun) / count * 1e6,
            "MiB": product.memory(worker.pid) / 2**20,
        }
        if name != UNOBSERVED:
            found |= _scraped(port, count)
    yield CASE, found


def _scraped(port: int, count: int) -> dict[str, float]:
    """Ask for the metrics some times; return the fastest answer's time in ms, and how many series it has.

    Raises:
        ContenderError: Other tasks were counted than those that ran.
    """
    took = []
    for _ in range(_SCRAPES):
        begin = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        took.append(time.perf_counter() - begin)
    counted = sum(float(value) for value in _SUCCESS.findall(page))
    if counted != count:
        raise ContenderError(f"{count} tasks were run, {counted:g} were counted")
    series = sum(1 for line in page.splitlines() if line and not line.startswith("#"))
    return {"series": float(series), "scrape ms": min(took) * 1000}
