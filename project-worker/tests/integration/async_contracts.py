"""Contracts of the `async def` tasks that only tests need (`async_app.py`).

What belongs here: what a test and a task of `async_app` agree on.
"""

from pathlib import Path
from typing import Literal

from project_contracts.contract import NoPayload, Payload, Result, TaskContract
from project_contracts.queues import PROJECT_WORKER

CLEANED_UP = "cleaned-up"
"""File in the folder with one line per run that has cleaned up."""


class Place(Result):
    """Where a task ran: its process, its loop, its database's processes, and the run's number."""

    pid: int
    loop: int
    backends: list[int]
    run: int


class Hold(Payload):
    """What a task does in its transaction, once it has written its row."""

    folder: str
    how: Literal["await", "query", "block", "swallow", "die once"]


class Number(Payload):
    """A number to work with."""

    number: int


LOCATE = TaskContract(name="async.locate", queue=PROJECT_WORKER, payload=NoPayload, result=Place)
HOLD = TaskContract(name="async.hold", queue=PROJECT_WORKER, payload=Hold, result=int)
DOUBLE = TaskContract(name="async.double", queue=PROJECT_WORKER, payload=Number, result=int)
WRITE_TWICE = TaskContract(name="async.write_twice", queue=PROJECT_WORKER, payload=NoPayload, result=int)
CONFLICT_ONCE = TaskContract(name="async.conflict_once", queue=PROJECT_WORKER, payload=NoPayload, result=int)
NOT_JSON: TaskContract[NoPayload, object] = TaskContract(
    name="async.not_json", queue=PROJECT_WORKER, payload=NoPayload, result=object
)


def cleaned_up(folder: Path) -> int:
    """Return how many runs with this folder have cleaned up."""
    file = folder / CLEANED_UP
    return len(file.read_text().splitlines()) if file.exists() else 0
