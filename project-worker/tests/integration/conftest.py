"""Integration tests: real broker, real result backend, real worker processes.

What belongs here: the worker that most tests share. How it is run is in `worker_process.py`.
"""

import os
from collections.abc import Iterator

import pytest
from worker_process import IMPORT_ROOT, SEED_COMMAND, RunningWorker, running_worker


def pytest_configure() -> None:
    if "RABBITMQ_PORT" not in os.environ:
        pytest.exit("integration tests need real servers: run `./stack test`", pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    """The worker as the README starts it, word for word."""
    with running_worker(tmp_path_factory.mktemp("worker"), SEED_COMMAND, IMPORT_ROOT) as running:
        yield running
