"""Tasks that only tests need, on the project's own app: `celery -A tests_app:app worker`.

How it works: they are bound as the project's tasks are, so they run under the same policy. Each appends a
line to a file opened with O_APPEND when it starts: the tests count real runs, whatever process they ran in.

What belongs here: tasks that fail, hang or die on purpose.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from sample_contracts import CONNECT, DIE, DIE_ONCE, GATE, INVALID, PID, READ, RUNS, SLEEP, SWALLOW, runs

from worker.config import load_settings
from worker.main import create_app
from worker.tasks.binding import TaskBinder

settings = load_settings()
app = create_app(settings)
task = TaskBinder(app=app, settings=settings)


def _start_run(folder: str) -> int:
    descriptor = os.open(Path(folder) / RUNS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, f"{os.getpid()}\n".encode())
    finally:
        os.close(descriptor)
    return runs(Path(folder))


@task(CONNECT)
def connect(folder: str, port: int) -> int:
    """Connect; return the number of the run that could. The third waits until the test has opened the
    port."""
    run = _start_run(folder)
    deadline = time.monotonic() + 5
    while run == 3 and not (Path(folder) / GATE).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    return run


@task(READ)
def read(folder: str, port: int) -> int:
    """Read a byte within 0.2 s; return the number of the run that could."""
    run = _start_run(folder)
    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
        connection.recv(1)
    return run


@task(INVALID)
def invalid(folder: str) -> None:
    """Fail for a reason that no second run will change."""
    _start_run(folder)
    raise ValueError("this will never work")


@task(SLEEP)
def sleep(seconds: float) -> None:
    """Take time."""
    time.sleep(seconds)


@task(SWALLOW)
def swallow(folder: str) -> None:
    """Run for ever, whatever is raised."""
    _start_run(folder)
    while True:
        with suppress(Exception):
            time.sleep(0.05)


@task(DIE_ONCE)
def die_once(folder: str) -> int:
    """Kill the own process in the first run; return the number of the run that survived."""
    run = _start_run(folder)
    if run == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return run


@task(DIE)
def die(folder: str) -> None:
    """Kill the own process in every run."""
    _start_run(folder)
    os.kill(os.getpid(), signal.SIGKILL)


@task(PID)
def pid() -> int:
    """Return the child's process id."""
    return os.getpid()
