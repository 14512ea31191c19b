"""Real worker processes for the tests of `async_celery.worker`, each on a vhost of its own.

How it works: `own_vhost` makes a RabbitMQ vhost through the management API, so that neither leftovers nor other
tests take a test's messages; in it the dead letters' exchange and inbox are declared. `WorkerProcess` runs
`celery -A tests.integration.worker.tasks_app:app worker` in a process group of its own: whatever a test does to
the worker, `close` ends all of it.

What belongs here: starting, signalling, stopping, and looking at processes. Tasks are in `tasks_app.py`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from uuid import uuid4

from celery import Celery, states
from kombu.message import Message

from async_celery.worker import Policy, dead_letters

from ..oracle import Oracle
from .tasks_app import VARIABLE, AppSettings, make_app

PROJECT = Path(__file__).resolve().parents[3]
_START_DEADLINE = 30.0  # s


def wait_until(condition: Callable[[], bool], timeout: float = 20.0, *, what: str = "the condition") -> float:
    """Poll until `condition` holds; return how long it took, in s."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + timeout, f"{what} did not come true within {timeout:g} s"
        time.sleep(0.01)
    return time.monotonic() - started


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie is dead."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def management(method: str, path: str, body: object = None) -> bytes:
    """Ask RabbitMQ's management API; `path` starts after `/api`."""
    env = os.environ
    request = urllib.request.Request(
        f"http://{env['RABBITMQ_HOST']}:{env['RABBITMQ_MANAGEMENT_PORT']}/api{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
    )
    login = f"{env['RABBITMQ_USER']}:{env['RABBITMQ_PASSWORD']}"
    request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 (as above)
        answer: bytes = response.read()
    return answer


@contextmanager
def own_vhost() -> Iterator[str]:
    """Make a vhost with the dead letters' exchange and inbox; return the URL that leads there."""
    env = os.environ
    vhost, user = f"test-{uuid4()}", env["RABBITMQ_USER"]
    management("PUT", f"/vhosts/{vhost}")
    try:
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        management("PUT", f"/permissions/{vhost}/{user}", rights)
        url = f"amqp://{user}:{env['RABBITMQ_PASSWORD']}@{env['RABBITMQ_HOST']}:{env['RABBITMQ_PORT']}/{vhost}"
        with Celery(broker=url, set_as_current=False).connection_for_write() as connection:
            dead_letters.declare(connection)
        yield url
    finally:
        management("DELETE", f"/vhosts/{vhost}")


def close_app(app: Celery) -> None:
    """Close what Celery leaves open of a client that has sent and read."""
    backend: Any = app.backend
    # A result that is collected later unsubscribes, on a connection that it opens for that.
    backend.remove_pending_result = lambda result: result
    backend.result_consumer.stop()
    backend.client.connection_pool.disconnect()
    app.close()


class WorkerProcess:
    """A worker of the tests' app, and a client that talks to it."""

    def __init__(
        self,
        folder: Path,
        *,
        broker: str,
        backend: str,
        policy: Policy | None = None,
        conf: dict[str, object] | None = None,
        queue: str = "work",
        processes: int = 1,
        pool: str = "prefork",
        options: Sequence[str] = (),
        app: str = "tests.integration.worker.tasks_app:app",
    ) -> None:
        """Prepare one.

        Args:
            folder: for its log and the oracle's; several workers of one test share it.
            broker: URL, with the test's own vhost.
            backend: URL.
            policy: of the worker; the defaults when None.
            conf: Celery settings on top of the app's own.
            queue: the work queue.
            processes: children of the pool.
            pool: Celery's name of it.
            options: more of the command line.
            app: what to run, for tests with tasks of their own.
        """
        self.name = f"w{uuid4().hex[:8]}"
        self.log = folder / f"{self.name}.log"
        self.oracle = Oracle(folder / "oracle")
        self.settings = AppSettings(
            broker=broker,
            backend=backend,
            oracle=str(self.oracle.path),
            queue=queue,
            policy=policy or Policy(),
            conf={**(conf or {}), "worker_pool": pool},
        )
        self._command = [sys.executable, "-m", "celery", "-A", app, "worker"]
        self._command += ["-c", str(processes), "-n", f"{self.name}@%h", "--without-gossip", "--without-mingle"]
        self._command += ["--loglevel", "INFO", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.client = make_app(self.settings)

    @property
    def node(self) -> str:
        """Its name for remote control."""
        return f"{self.name}@{socket.gethostname()}"

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The main process; None of it before `start`."""
        assert self._process is not None, "the worker was not started"
        return self._process

    def launch(self, **variables: str) -> "WorkerProcess":
        """Start it without waiting; `variables` are added to its environment."""
        env = {**os.environ, VARIABLE: self.settings.to_text(), "PYTHONPATH": str(PROJECT), **variables}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=PROJECT, env=env, stdout=output, stderr=output, start_new_session=True
            )
        return self

    def start(self, **variables: str) -> "WorkerProcess":
        """Start it, and wait until it takes tasks."""
        begin = len(self.text)
        self.launch(**variables)
        self.wait_ready(begin)
        return self

    def wait_ready(self, begin: int = 0) -> None:
        """Wait until its log, after the first `begin` characters, says that it is ready."""

        def ready() -> bool:
            assert self.process.poll() is None, f"the worker did not start:\n{self.text}"
            return " ready." in self.text[begin:]

        wait_until(ready, _START_DEADLINE, what="the worker's start")

    @property
    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def children(self) -> list[int]:
        """Return the pids of the pool's processes that are alive."""
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in listing.read_text().split()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until the main process has ended; return its exit code."""
        return self.process.wait(timeout)

    def stop(self, timeout: float = 30.0) -> int:
        """Ask it to end as a deploy does (TERM, warm), and wait."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def lose_connection(self) -> None:
        """Have RabbitMQ close its connections, and wait until it has connected anew."""
        vhost = self.settings.broker.rpartition("/")[2]
        logged = len(self.text)
        closed: set[str] = set()

        def connected_anew() -> bool:
            # RabbitMQ lists connections some seconds late, each one on its own: close those that come later too.
            connections = json.loads(management("GET", f"/vhosts/{vhost}/connections"))
            names = {c["name"] for c in connections if c.get("client_properties", {}).get("product") == "py-amqp"}
            for name in names - closed:
                try:
                    management("DELETE", f"/connections/{quote(name, safe='')}")
                except HTTPError as error:
                    error.close()  # it is an answer; Python 3.14 complains about one that is left open
                else:
                    closed.add(name)
            return "Connected to" in self.text[logged:]

        wait_until(connected_anew, 40, what="a new connection")

    def close(self) -> None:
        """End all of it, whatever state it is in."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        close_app(self.client)

    def __enter__(self) -> "WorkerProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def meta(self, task_id: str) -> dict[str, Any]:
        """Return what is stored of a task."""
        meta: dict[str, Any] = self.client.backend.get_task_meta(task_id, cache=False)
        return meta

    def ended(self, task_id: str, timeout: float = 20.0) -> dict[str, Any]:
        """Wait until a task has a terminal state; return what is stored of it."""
        wait_until(
            lambda: self.meta(task_id)["status"] in states.READY_STATES, timeout, what=f"the end of {task_id}"
        )
        return self.meta(task_id)

    def stored(self, task_id: str, timeout: float = 20.0) -> dict[str, Any]:
        """Wait until a task has a terminal state; return the JSON that is stored for it."""
        self.ended(task_id, timeout)
        backend: Any = self.client.backend
        meta: dict[str, Any] = json.loads(backend.get(backend.get_key_for_task(task_id)))
        return meta

    def send(self, name: str, *args: Any, **options: Any) -> str:
        """Send a task by name; return its id. `options` are Celery's."""
        result: Any = self.client.send_task(name, args, **options)
        return str(result.id)

    def wait_for_dead_letters(self) -> list[Message]:
        """Wait until there are some in the inbox; take them."""
        letters: list[Message] = []

        def arrived() -> bool:
            letters.extend(self.dead_letters())
            return bool(letters)

        wait_until(arrived, what="the dead letter")
        return letters

    def dead_letters(self) -> list[Message]:
        """Take what lies in the inbox of dead letters."""
        letters: list[Message] = []
        with self.client.connection_for_read() as connection:
            queue = dead_letters.INBOX.bind(connection.default_channel)
            while (message := queue.get(no_ack=True)) is not None:
                letters.append(message)
        return letters
