"""Integration tests: real broker, real result backend, real worker processes.

What belongs here: the database of the session (`database.py`), the worker that most tests share (how it is run is
in `worker_process.py`), and the system that tests may break (`own_system.py`).
"""

import os
from collections.abc import Iterator

import database
import pytest
from own_system import OwnSystem
from worker_process import IMPORT_ROOT, SEED_COMMAND, RunningWorker, running_worker


def pytest_configure() -> None:
    if "RABBITMQ_PORT" not in os.environ:
        pytest.exit("integration tests need real servers: run `./stack test`", pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session", autouse=True)
def own_database() -> Iterator[str]:
    """Before anything is started: it works on this session's database."""
    with database.own_database() as name:
        yield name


@pytest.fixture
def clean_tables() -> None:
    """For a test that counts rows: there are none when it starts."""
    database.empty_tables()


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    """The worker as the README starts it, word for word."""
    with running_worker(tmp_path_factory.mktemp("worker"), SEED_COMMAND, IMPORT_ROOT) as running:
        yield running


@pytest.fixture(scope="session")
def own_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnSystem]:
    """RabbitMQ and Redis to be broken, without any worker; whoever breaks them mends them."""
    system = OwnSystem(tmp_path_factory.mktemp("own-system"))
    try:
        system.redis.start()
        system.rabbit.start()
        yield system
    finally:
        system.close()
