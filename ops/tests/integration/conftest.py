"""Real stacks in folders of their own: `./stack` as a subprocess, real servers on free ports.

How it works: nothing of the session's environment reaches a stack but PATH and how the package index is reached
(the machine's business), so a live stack and the test
session's own servers are left alone. Pytest's folders are closed to other accounts (mode 700), so every stack
here is also one under a private home folder.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stack import ports, processes, services, settings
from stack.instance import Instance

ROOT = Path(__file__).parents[3]
NETWORK = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_", "SSL_")) or "proxy" in k.lower()}
SERVERS = [service.name for service in services.SERVERS]


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Stack:
    """A stack in a folder, driven by its command line."""

    def __init__(self, state: Path) -> None:
        numbers = ports.pick_free(len(services.PORTS))
        self.ports = {port.variable: str(number) for port, number in zip(services.PORTS, numbers, strict=True)}
        self.state = state
        self.environ = {
            **NETWORK,
            "PATH": os.environ["PATH"],
            "STACK_ROOT": str(ROOT),
            "STACK_STATE": str(state),
            "PYTHONPATH": str(ROOT / "ops"),
            "COLUMNS": "200",
            **self.ports,
        }

    def begin(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "stack", *words],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,  # so that a test can kill all of the command, and nothing else
        )

    def run(self, *words: str, code: int = 0) -> str:
        with self.begin(*words) as process:
            said, _ = process.communicate(timeout=100)
        assert process.returncode == code, said
        assert "Traceback" not in said
        return said

    @property
    def instance(self) -> Instance:
        return Instance.at(ROOT, self.state, services.PORTS)

    def secrets(self) -> list[str]:
        return [self.instance[name] for name in settings.SECRETS]

    def processes(self) -> list[psutil.Process]:
        return processes.left_behind(self.state)

    def process(self, name: str) -> psutil.Process:
        """The oldest process of a name: a server's main one."""
        return min((p for p in self.processes() if p.name() == name), key=lambda p: p.create_time())

    def process_of_supervisor(self) -> psutil.Process:
        return psutil.Process(int((self.state / "run" / "supervisord.pid").read_text()))


@pytest.fixture
def new_stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack that has never been up."""
    made = Stack(tmp_path / "state")
    yield made
    # RabbitMQ takes 8 s to stop cleanly, which `live` tests. The supervisor first: it restarts the rest.
    for process in sorted(made.processes(), key=lambda process: process.create_time()):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    made.run("down", "--volumes")
    assert made.processes() == []


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose servers are up, for all tests of a module."""
    made = Stack(tmp_path_factory.mktemp("live") / "state")
    try:
        made.run("up", *SERVERS)
        yield made
    finally:
        made.run("down", "--volumes")
    assert made.processes() == []
