"""The app of the worker package's tests: run by real workers, and used by the tests to send to them.

How it works: `make_app` configures an app as the project's worker is (late acknowledgement, quorum queues with
dead letters, `install`). A worker process is started with `-A tests.integration.worker.tasks_app:app` and reads
its `AppSettings` from the environment; a test calls `make_app` with the same settings, so that both declare the
same queues. Each task notes its run in the oracle's log; where a test has to know what a task is doing, the task
waits at a gate: a file that the test makes.

What belongs here: the smallest task per behaviour that a test of a worker needs.
"""

import dataclasses
import json
import os
import resource
import signal
import time
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any

import celery.worker.request
from celery import Celery, Task
from celery.app.amqp import AMQP
from celery.concurrency.asynpool import AsynPool

from async_celery.queues import work_queue
from async_celery.worker import Policy, install, raise_if_cancelled

from ..oracle import Oracle

VARIABLE = "TASKS_APP"
"""The environment variable with the settings of the worker process's app."""

_GATE_DEADLINE = 60  # s

# A child that died is replaced when its end is noticed; where Celery looks too early, when it looks again: after
# 5 s, which tests need not wait.
_timers = property(lambda pool: {pool.maintain_pool: 0.2})
AsynPool.timers = _timers  # type: ignore[method-assign,assignment]  # celery-types takes it for a method


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppSettings:
    """What differs between the tests' workers.

    Attributes:
        broker: URL.
        backend: URL.
        oracle: the log of runs.
        queue: the work queue.
        policy: of the worker; `heartbeat_file` stays unset unless the test sets it.
        conf: Celery settings on top of the app's own.
    """

    broker: str
    backend: str
    oracle: str
    queue: str = "work"
    policy: Policy = dataclasses.field(default_factory=Policy)
    conf: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_text(self) -> str:
        """Return what `from_text` reads."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_text(cls, text: str) -> "AppSettings":
        """Return what `to_text` wrote."""
        fields = json.loads(text)
        policy = fields["policy"]
        if policy["heartbeat_file"] is not None:
            policy["heartbeat_file"] = Path(policy["heartbeat_file"])
        return cls(**{**fields, "policy": Policy(**policy)})


def make_app(settings: AppSettings, *, amqp: type[AMQP] = AMQP) -> Celery:
    """Make the app with its tasks; a worker's, or a client's of that worker. `amqp` is Celery's own, or signs."""
    app = Celery("tasks_app", broker=settings.broker, backend=settings.backend, set_as_current=False, amqp=amqp)
    app.conf.update(
        {
            "task_default_queue": settings.queue,
            "task_queues": [work_queue(settings.queue, max_length=100_000, delivery_limit=100)],
            "task_create_missing_queues": False,
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_deduplicate_successful_tasks": False,
            "worker_cancel_long_running_tasks_on_connection_loss": True,
            "broker_transport_options": {"confirm_publish": True},
            "broker_heartbeat": 10,
            "broker_connection_retry_on_startup": True,
            "broker_connection_max_retries": None,
            "result_backend_always_retry": True,
            "result_backend_max_sleep_between_retries_ms": 500,
            "redis_socket_timeout": 5,
            "redis_socket_connect_timeout": 2,
            "redis_socket_keepalive": True,
            "worker_proc_alive_timeout": 30,
            "worker_prefetch_multiplier": 1,
            "task_serializer": "json",
            "result_serializer": "json",
            "accept_content": ["json"],
            "result_accept_content": ["json"],
            "result_expires": 600,
            "result_extended": True,
            "timezone": "UTC",
            **settings.conf,
        }
    )
    install(app, settings.policy)
    # Of this app alone: a test's process has several.
    app.task = partial(app.task, shared=False)  # type: ignore[method-assign]  # for all tasks below at once
    _register(app, Oracle(settings.oracle))
    return app


def _wait_at(gate: str) -> None:
    deadline = time.monotonic() + _GATE_DEADLINE
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened {gate}")
        time.sleep(0.01)


def _register(app: Celery, oracle: Oracle) -> None:
    """Register the tasks; each notes its run before it does anything else."""

    def note(task: "Task[Any, Any]") -> None:
        oracle.note(task.request.id or "", 1 + task.request.retries)

    @app.task(name="add", bind=True)
    def add(self: "Task[Any, Any]", x: int, y: int) -> int:
        note(self)
        return x + y

    @app.task(name="echo", bind=True)
    def echo(self: "Task[Any, Any]", value: Any = None) -> Any:
        note(self)
        return value

    @app.task(name="total", bind=True)
    def total(self: "Task[Any, Any]", values: list[int]) -> int:
        note(self)
        return sum(values)

    @app.task(name="fail", bind=True)
    def fail(self: "Task[Any, Any]", message: str = "boom") -> None:
        note(self)
        raise ValueError(message)

    @app.task(name="pid", bind=True)
    def pid(self: "Task[Any, Any]") -> int:
        note(self)
        return os.getpid()

    @app.task(name="sleep", bind=True)
    def sleep(self: "Task[Any, Any]", seconds: float) -> float:
        note(self)
        time.sleep(seconds)
        return seconds

    @app.task(name="hold", bind=True)
    def hold(self: "Task[Any, Any]", gate: str) -> str:
        note(self)
        _wait_at(gate)
        return "released"

    @app.task(name="swallow", bind=True)
    def swallow(self: "Task[Any, Any]") -> None:
        """Run for ever, whatever `Exception` is raised."""
        note(self)
        while True:
            with suppress(Exception):
                time.sleep(0.05)

    @app.task(name="stubborn", bind=True)
    def stubborn(self: "Task[Any, Any]") -> None:
        """Run for ever, whatever is raised."""
        note(self)
        while True:
            with suppress(BaseException):
                time.sleep(0.05)

    @app.task(name="cooperate", bind=True)
    def cooperate(self: "Task[Any, Any]") -> None:
        """Run until cancelled, in steps."""
        note(self)
        while True:
            raise_if_cancelled()
            time.sleep(0.01)

    @app.task(name="spin", bind=True)
    def spin(self: "Task[Any, Any]") -> None:
        note(self)
        while True:
            pass

    @app.task(name="die", bind=True)
    def die(self: "Task[Any, Any]") -> None:
        """Kill the own process in every run."""
        note(self)
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="die_times", bind=True)
    def die_times(self: "Task[Any, Any]", times: int) -> int:
        """Kill the own process in the first `times` runs; return the number of the run that survived."""
        note(self)
        run = len(oracle.executions(self.request.id))
        if run <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return run

    @app.task(name="retry_times", bind=True, max_retries=None)
    def retry_times(self: "Task[Any, Any]", times: int, countdown: float = 1) -> int:
        """Retry `times` times; return the number of retries."""
        note(self)
        if self.request.retries < times:
            raise self.retry(exc=ConnectionError("not yet"), countdown=countdown)
        return int(self.request.retries)

    @app.task(name="hog", bind=True)
    def hog(self: "Task[Any, Any]", limit: int) -> int:
        """Take more memory than the process may have: `limit` bytes of address space above what it has."""
        note(self)
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + limit, resource.RLIM_INFINITY))
        try:
            return len(bytearray(4 * limit))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    @app.task(name="headers", bind=True)
    def headers(self: "Task[Any, Any]", *_: Any) -> dict[str, Any]:
        """Return headers that came with the message."""
        note(self)
        names = ("x-request-id", "x-published-at", "retries")
        return {name: self.request.get(name) for name in names}

    @app.task(name="die_and_retry", bind=True, max_retries=None)
    def die_and_retry(self: "Task[Any, Any]") -> None:
        """Kill the own process in four runs, then retry for ever."""
        note(self)
        if len(oracle.executions(self.request.id)) < 5:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self.retry(countdown=0)

    @app.task(name="retry_headers", bind=True)
    def retry_headers(self: "Task[Any, Any]") -> dict[str, Any]:
        """Retry once; return the headers of the second message."""
        note(self)
        if not self.request.retries:
            raise self.retry(countdown=1)
        return {name: self.request.get(name) for name in ("x-request-id", "x-published-at", "retries")}

    class Hooked(app.Task):  # type: ignore[name-defined,misc]  # made by the app
        """A task with hooks of its own."""

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            self._hook("before_start", *args)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self._hook("__call__", *args)
            super().__call__(*args, **kwargs)
            return "called"

        def _hook(self, name: str, path: str) -> None:
            with Path(path).open("a") as file:
                file.write(f"{name}\n")

    @app.task(name="hooked", bind=True, base=Hooked)
    def hooked(self: Any, path: str) -> None:
        note(self)
        self._hook("run", path)


class _ShiftedClock(datetime):
    """A wrong clock for the one place of a worker that looks at it to tell what has expired."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # as is good enough here
        return datetime.now(tz) + timedelta(seconds=float(os.environ["TASKS_APP_SKEW"]))


if "TASKS_APP_SKEW" in os.environ:
    vars(celery.worker.request)["datetime"] = _ShiftedClock

if VARIABLE in os.environ:
    # Celery finds it by `-A tests.integration.worker.tasks_app:app`.
    app = make_app(AppSettings.from_text(os.environ[VARIABLE]))
