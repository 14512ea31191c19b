"""Real processes for the API's tests: uvicorn with the API, a Celery worker; and waiting for what they do."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import oracle

HERE = Path(__file__).parent
COMMAND = (
    "-A country_worker_app:app worker -c 2 -l INFO -Q project-worker,sums "
    "--without-gossip --without-mingle -n api-tests@%h"
)
PICKLE_COMMAND = (
    "-A pickle_worker_app:app worker -c 1 -l INFO -Q project-worker-pickle "
    "--without-gossip --without-mingle -n api-tests-pickle@%h"
)
IMPORT_ROOT = HERE.parents[1] / "project-api"
WORKER_IMPORTS = (HERE.parents[2] / "project-worker" / "project-worker", Path(oracle.__file__).parent)
"""Where what the tests' workers use of the real one, and of the library's tests, is imported from."""


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def unused_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class Api:
    """One uvicorn process with its own port."""

    def __init__(self, log: Path, settings: dict[str, str]) -> None:
        self.port = int(unused_port())
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "api:app", "--port", str(self.port)],
                cwd=IMPORT_ROOT,
                env=os.environ | settings,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def alive(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(self.url + "/health/live").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running_api(log: Path, **settings: str) -> Iterator[Api]:
    api = Api(log, settings)
    try:
        wait_until(api.alive, 60, "the API answers")
        yield api
    finally:
        api.process.terminate()
        api.process.wait(15)


class Worker:
    """One Celery worker; can be told to stand still."""

    def __init__(self, log: Path, command: str = COMMAND) -> None:
        self.log = log
        self._executions = log.with_name("executions")
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", *command.split()],
                cwd=HERE,
                env=os.environ
                | {
                    "EXECUTIONS": str(self._executions),
                    "PYTHONPATH": os.pathsep.join(map(str, WORKER_IMPORTS)),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "ready." in self.log.read_text()

    def executions(self, country_code: str) -> oracle.Oracle:
        """Where the statistics tasks of a country note their runs."""
        return oracle.Oracle(f"{self._executions}-{country_code}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)


@contextmanager
def running_reaper(log: Path, app: str = "worker_app:app") -> Iterator[None]:
    """The process that parks dead letters, beside the worker."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "async_celery.worker.reaper", "-A", app, "-l", "INFO"],
            cwd=HERE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, WORKER_IMPORTS))},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(15)
