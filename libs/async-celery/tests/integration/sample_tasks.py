"""The tasks that the tests' real worker runs; started as `celery -A sample_tasks:app worker`.

How it works: the app is configured as this project's worker is (late acknowledgement, STARTED tracked, extended
JSON results); `SAMPLE_RELIABLE` makes it one of `async_celery.worker`. Where a test has to know what a task is
doing, the task waits at a gate: a file the test makes.

What belongs here: the smallest task per behaviour that a test needs.
"""

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.concurrency.asynpool import AsynPool
from celery.signals import worker_ready

app = Celery(
    "sample_tasks",
    broker=os.environ["SAMPLE_BROKER"],
    backend=os.environ["SAMPLE_BACKEND"],
    set_as_current=False,
)
app.conf.update(
    accept_content=["json"],
    broker_transport_options={"confirm_publish": True},
    result_accept_content=["json"],
    result_extended=True,
    result_serializer="json",
    task_acks_late=True,
    task_default_queue=os.environ["SAMPLE_QUEUE"],
    task_track_started=True,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
)

if "SAMPLE_RELIABLE" in os.environ:
    # Not at the top: old workers have only Celery.
    from async_celery.worker import Policy, install

    install(app, Policy())

_GATE_DEADLINE = 30  # s

# A child that was terminated is replaced when its end is noticed; where Celery looks too early, when it looks
# again: after 5 s, which tests need not wait.
_timers = property(lambda pool: {pool.maintain_pool: 0.2})
AsynPool.timers = _timers  # type: ignore[method-assign,assignment]  # celery-types takes it for a method


@worker_ready.connect
def _announce(**_: object) -> None:
    Path(os.environ["SAMPLE_READY_FILE"]).touch()


def _note(path: str, line: str) -> None:
    # One write to a file opened with O_APPEND: lines of several processes never mix.
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


def _wait_at(gate: str) -> None:
    deadline = time.monotonic() + _GATE_DEADLINE
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened {gate}")
        time.sleep(0.01)


@app.task(name="add", shared=False)
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="echo", shared=False)
def echo(value: Any) -> Any:
    return value


@app.task(name="total", shared=False)
def total(values: list[int]) -> int:
    if not isinstance(values, list):
        raise TypeError(f"total takes a list, not {values!r}")
    return sum(values)


@app.task(name="fail", shared=False)
def fail(*_: Any, message: str = "boom") -> None:
    raise ValueError(message)


@app.task(name="note", shared=False)
def note(path: str, line: str) -> str:
    _note(path, line)
    return line


@app.task(name="hold", shared=False)
def hold(gate: str) -> str:
    """Write `started` to `gate`.log, wait for the gate, write `ended`."""
    _note(f"{gate}.log", "started")
    _wait_at(gate)
    _note(f"{gate}.log", "ended")
    return "released"


@app.task(name="progress", shared=False, bind=True)
def progress(self: "Task[Any, Any]", gate: str) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1, "total": 2})
    _wait_at(gate)
    return "done"


@app.task(name="third_time", shared=False, bind=True, max_retries=5)
def third_time(self: "Task[Any, Any]", path: str) -> int:
    """Fail twice with a retry, then return the number of retries."""
    _note(path, "run")
    if self.request.retries < 2:
        # Not 0: the next run could then store SUCCESS before this one stores RETRY, which Celery lets win.
        raise self.retry(exc=ConnectionError("not yet"), countdown=0.1)
    return int(self.request.retries)


@app.task(name="see", shared=False)
def see(*args: Any, **kwargs: Any) -> list[Any]:
    """Return what it was called with: the result of a canvas of these tells the way of all data through it."""
    return [*args, kwargs] if kwargs else [*args]


@app.task(name="become", shared=False, bind=True)
def become(self: "Task[Any, Any]", *args: Any, canvas: dict[str, Any]) -> Any:
    """Put a canvas in its own place, with what it was called with as an additional argument."""
    signature = app.signature(canvas)
    raise self.replace(signature if not args else app.signature("see", args=args) | signature)


@app.task(name="echo_headers", shared=False, bind=True)
def echo_headers(self: "Task[Any, Any]") -> dict[str, Any]:
    return {"tenant": self.request.get("tenant"), "expires": self.request.expires}
