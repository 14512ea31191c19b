"""Fixtures of the worker package's tests: workers on a vhost of each test module's own.

What belongs here: making workers. How one is started and stopped is in `worker_process.py`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Address
from .worker_process import WorkerProcess, own_vhost

WorkerFactory = Callable[..., WorkerProcess]


@pytest.fixture(scope="module")
def vhost() -> Iterator[str]:
    """The URL of a vhost of this module's own."""
    with own_vhost() as url:
        yield url


@pytest.fixture
def make_worker(vhost: str, backend: Address, tmp_path: Path) -> Iterator[WorkerFactory]:
    """Return a function that makes workers, not started; all of one test share its folder and its oracle."""
    made: list[WorkerProcess] = []

    def make(**options: Any) -> WorkerProcess:
        options = {"broker": vhost, "backend": backend.url(), "queue": f"work-{tmp_path.name}", **options}
        made.append(WorkerProcess(tmp_path, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.close()
