"""Contracts of the tasks that only tests need (`tests_app.py`), and the count of their runs.

What belongs here: what a test and a task of `tests_app` agree on.
"""

from pathlib import Path

from project_contracts.contract import NoPayload, Payload, TaskContract
from project_contracts.queues import PROJECT_WORKER

GATE = "open"
"""File that the test makes in the folder when it has opened the port."""

RUNS = "runs"
"""File in the folder with one line per run."""


class Folder(Payload):
    """Where the task leaves its traces."""

    folder: str


class FolderAndPort(Folder):
    """And where it connects to."""

    port: int


class Seconds(Payload):
    """How long."""

    seconds: float


def _contract(name: str, payload: type[Payload]) -> TaskContract[Payload, object]:
    return TaskContract(name=f"tests.{name}", queue=PROJECT_WORKER, payload=payload, result=object)


CONNECT = _contract("connect", FolderAndPort)
READ = _contract("read", FolderAndPort)
INVALID = _contract("invalid", Folder)
SLEEP = _contract("sleep", Seconds)
SWALLOW = _contract("swallow", Folder)
DIE_ONCE = _contract("die_once", Folder)
DIE = _contract("die", Folder)
PID = _contract("pid", NoPayload)


def runs(folder: Path) -> int:
    """Return how many runs have started with this folder."""
    file = folder / RUNS
    return len(file.read_text().splitlines()) if file.exists() else 0
