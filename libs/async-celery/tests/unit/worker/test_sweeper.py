"""The sweeper without Redis: how long it takes, and how long it lets a task run."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from async_celery.worker.sweeper import Sweeper


class Client:
    """A Redis with much to do, twice, and no record of any of it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.rounds = 2
        self.swept: list[bytes] = []

    def zrange(self, *_: Any, num: int, **__: Any) -> list[bytes]:
        self.rounds -= 1
        return [str(n).encode() for n in range(num if self.rounds >= 0 else 0)]

    def get(self, _: str) -> None:
        self.seconds += 0.2

    def zrem(self, _: str, workflow_id: str) -> None:
        self.swept.append(workflow_id.encode())


def sweeper_of(client: Client) -> Sweeper:
    tasks = {"slow": SimpleNamespace(time_limit=900), "quick": SimpleNamespace(time_limit=None)}
    app: Any = SimpleNamespace(
        backend=SimpleNamespace(client=client), conf=SimpleNamespace(task_time_limit=300), tasks=tasks
    )
    return Sweeper(app)


def test_a_sweep_ends_after_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    monkeypatch.setattr(time, "monotonic", lambda: client.seconds)
    sweeper_of(client).sweep()
    assert len(client.swept) == 3


@pytest.mark.parametrize(("name", "limit"), [("slow", 900), ("quick", 300), ("unknown", 300)])
def test_a_task_may_run_until_its_own_limit(name: str, limit: float) -> None:
    assert limit < sweeper_of(Client())._longest_run(name) < limit + 60
