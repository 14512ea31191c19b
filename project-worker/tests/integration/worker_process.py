"""A worker process on a vhost of its own, and a client that talks to it.

How it works: the servers' addresses come from environment variables that `./stack test` sets. Each worker gets
a RabbitMQ vhost, made through the management API and deleted afterwards, so that neither leftovers nor another
worker take a test's messages.

What belongs here: starting, waiting, stopping.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery
from celery.canvas import Signature
from celery.result import AsyncResult

from project_contracts.contract import TaskContract
from worker.config import Settings, load_settings
from worker.main import create_app

IMPORT_ROOT = Path(__file__).resolve().parents[2] / "project-worker"
SEED_COMMAND = "-A tasks:app worker --pool prefork -Q project-worker --concurrency=1 -n worker@%h"
START_DEADLINE = 30.0  # s
STOP_DEADLINE = 30.0  # s


@dataclass(frozen=True, kw_only=True)
class RunningWorker:
    """A worker process, and a client that talks to it through its vhost."""

    process: subprocess.Popen[bytes]
    log: Path
    settings: Settings
    client: Celery

    def send(self, contract: TaskContract[Any, Any], **kwargs: object) -> AsyncResult[Any]:
        """Send one task by its contract, as the API does."""
        return self.signature(contract, **kwargs).apply_async()

    def signature(self, contract: TaskContract[Any, Any], **kwargs: object) -> Signature[Any]:
        """Name one task and its arguments, as the API does for its workflows."""
        options = {"queue": contract.queue, "serializer": contract.serializer}
        return self.client.signature(contract.name, kwargs=kwargs, options=options)


@contextmanager
def management() -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"http://{os.environ['RABBITMQ_HOST']}:{os.environ['RABBITMQ_MANAGEMENT_PORT']}/api",
        auth=(os.environ["RABBITMQ_USER"], os.environ["RABBITMQ_PASSWORD"]),
    ) as client:
        yield client


@contextmanager
def own_vhost() -> Iterator[str]:
    vhost = f"test-{uuid.uuid4()}"
    permissions = {"configure": ".*", "write": ".*", "read": ".*"}
    with management() as api:
        api.put(f"/vhosts/{vhost}").raise_for_status()
        try:
            api.put(f"/permissions/{vhost}/{os.environ['RABBITMQ_USER']}", json=permissions).raise_for_status()
            yield vhost
        finally:
            api.delete(f"/vhosts/{vhost}").raise_for_status()


@contextmanager
def running_worker(folder: Path, command: str, workdir: Path, **variables: object) -> Iterator[RunningWorker]:
    """Run `celery <command>` in `workdir` until the block ends; `variables` are added to its environment."""
    with own_vhost() as vhost:
        variables = {
            "RABBITMQ_VHOST": vhost,
            "RESULT_EXPIRES_SECONDS": 600,
            "PYTHONPATH": IMPORT_ROOT,
            **variables,
        }
        log = folder / "worker.log"
        with pytest.MonkeyPatch.context() as environment, log.open("wb") as output:
            for name, value in variables.items():
                environment.setenv(name, str(value))
            settings = load_settings()
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", *command.split()], cwd=workdir, stdout=output, stderr=output
            )
        try:
            wait_until_ready(process, log)
            with create_app(settings) as client:
                yield RunningWorker(process=process, log=log, settings=settings, client=client)
        finally:
            stop(process)


def wait_until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    wait_until(lambda: " ready." in log.read_text() or process.poll() is not None, START_DEADLINE)
    assert process.poll() is None, f"the worker did not start:\n{log.read_text()}"


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
