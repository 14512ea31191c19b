"""Real servers (their addresses come from `./stack test`), a real API process, a real worker process."""

import os
from collections.abc import Iterator

import database
import httpx
import pytest
from processes import Api, Worker, running_api, unused_port, wait_until

if "RABBITMQ_PORT" not in os.environ:
    pytest.exit("integration tests need real servers: run `./stack test`", returncode=4)


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
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("api") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def second_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Another process on the same servers; gone before a module that watches what a single one sends."""
    with running_api(tmp_path_factory.mktemp("second-api") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API that cannot reach the broker, and all else."""
    with running_api(tmp_path_factory.mktemp("cut-off") / "log", RABBITMQ_PORT=unused_port()) as running:
        yield running


@pytest.fixture
def client(api: Api, worker: Worker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=20) as http:
        yield http


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    running = Worker(tmp_path_factory.mktemp("worker") / "log")
    try:
        wait_until(running.ready, 60, "the worker is ready")
        yield running
    finally:
        running.stop()
