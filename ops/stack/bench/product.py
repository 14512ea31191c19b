"""The product itself: project-api and project-worker as `./stack up` starts them, on the benchmark's servers.

How it works: the command lines, folders and environments are those of `./stack up`; a database of the row's own
and a free port are put into the settings. Task events are off, as in production.

What belongs here: starting the two, talking with the API, and looking at their memory.
"""

import http.client
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import psutil

from stack import environments, health, ports
from stack.bench.contenders import API, WORKER, Contender, ContenderError, Process, inherited
from stack.bench.lab import Lab
from stack.instance import Instance
from stack.servers import projects

_TIMEOUT = 60.0  # s for one answer
_PRODUCT = Path("benchmarks/product")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the API answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Api:
    """One connection to an API."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT, blocksize=1 << 16)

    def get(self, path: str, expected: int = 200, *, accept: str = "*/*") -> Answer:
        """Ask for a path.

        Raises:
            ContenderError: The status is another one.
        """
        return self._ask("GET", path, None, {"Accept": accept}, expected)

    def post(
        self, path: str, body: "bytes | IO[bytes]", expected: int, *, content_type: str = "application/json"
    ) -> Answer:
        """Send a body, or a file.

        Raises:
            ContenderError: The status is another one.
        """
        return self._ask("POST", path, body, {"Content-Type": content_type}, expected)

    def _ask(
        self, method: str, path: str, body: "bytes | IO[bytes] | None", headers: dict[str, str], expected: int
    ) -> Answer:
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        answer = Answer(
            status=response.status,
            headers={name.lower(): value for name, value in response.getheaders()},
            body=response.read(),
        )
        if answer.status != expected:
            raise ContenderError(f"{method} {path} was answered {answer.status}: {answer.body[:300].decode()}")
        return answer


@dataclass(frozen=True, kw_only=True)
class Served:
    """An API that runs."""

    port: int
    pid: int


@contextmanager
def api(lab: Lab, database: str, contender: Contender = API, **values: str) -> Iterator[Served]:
    """Run an API on a database, with these settings; yields it when it is ready."""
    (port,) = ports.pick_free(1)
    instance = _settled(lab, database, {"API_PORT": str(port), **values})
    command = projects.api_command(instance)
    environ = _environ(instance)
    if contender.way:
        command = [f"{contender.way}:app" if word == "api:app" else word for word in command]
        environ["PYTHONPATH"] = str(instance.repository / _PRODUCT)
    directory = projects.api_directory(instance)
    with Process(contender, command, lab.instance, directory=directory, environ=environ) as process:
        lab.wait(lambda: _is_ready(instance), process)
        yield Served(port=port, pid=process.pid)


@contextmanager
def worker(
    lab: Lab, database: str, settings: Mapping[str, str] | None = None, *, queued: Sequence[str] = ()
) -> Iterator[Process]:
    """Run a worker with two processes on a database; yields it when it takes tasks. What waited is dropped.

    Args:
        lab: Whose servers it uses.
        database: Its name.
        settings: More of the worker's own.
        queued: Arguments of `queue_tasks`, which then fills the queue before the worker starts.

    Raises:
        ContenderError: The queue could not be filled, or the worker did not start.
    """
    lab.broker.forget(projects.QUEUE)
    lab.store.empty()
    instance = _settled(lab, database, {"WORKER_CONCURRENCY": "2", **(settings or {})})
    if queued:
        _run(lab, "queue_tasks", *queued, environ=_environ(instance))
    command, directory = projects.worker_command(instance), projects.worker_directory(instance)
    with Process(WORKER, command, lab.instance, directory=directory, environ=_environ(instance)) as process:
        lab.wait(lambda: lab.broker.consumers(projects.QUEUE) > 0, process)
        yield process


def merge_statements(lab: Lab) -> Mapping[str, str]:
    """Ask the worker's code for its SQL.

    Returns:
        `table`: what makes the temporary table, whose name is `incoming`. `merge`: what merges it.

    Raises:
        ContenderError: The code has become another one.
    """
    return dict(json.loads(_run(lab, "merge_statements", environ=inherited())))


def _run(lab: Lab, program: str, *arguments: str, environ: Mapping[str, str]) -> str:
    """Run a program of benchmarks/product with the worker's code; return what it prints."""
    done = subprocess.run(
        [str(environments.python(WORKER.environment, lab.instance)), "-m", program, *arguments],
        cwd=projects.worker_directory(lab.instance),
        env={**environ, "PYTHONPATH": str(lab.instance.repository / _PRODUCT)},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise ContenderError(f"{program} has failed: {done.stderr.splitlines()[-1]}")
    return done.stdout


def peak_memory(pid: int) -> int:
    """Return the highest resident memory, in bytes, of the largest of a process and its descendants (proc(5))."""
    root = psutil.Process(pid)
    found = (Path(f"/proc/{one.pid}/status").read_text() for one in (root, *root.children(recursive=True)))
    return max(int(match[1]) for status in found if (match := _PEAK.search(status))) * 1024


def cpu(pid: int) -> float:
    """Return the CPU time, in s, that a process and its descendants have taken."""
    root = psutil.Process(pid)
    times = (one.cpu_times() for one in (root, *root.children(recursive=True)))
    return sum(one.user + one.system for one in times)


def memory(pid: int) -> int:
    """Return the memory, in bytes, that a process and its descendants have to themselves."""
    root = psutil.Process(pid)
    return sum(int(one.memory_full_info().uss) for one in (root, *root.children(recursive=True)))


def processor_time(pid: int) -> float:
    """Return the processor time of a process so far, in s."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _settled(lab: Lab, database: str, values: Mapping[str, str]) -> Instance:
    instance = lab.database.product(database)
    return replace(instance, values={**instance.values, "TASK_EVENTS": "0", **values})


def _environ(instance: Instance) -> dict[str, str]:
    return {**inherited(), **projects.environment(instance)}


def _is_ready(instance: Instance) -> bool:
    try:
        health.api(instance)
    except health.UnhealthyError:
        return False
    return True
