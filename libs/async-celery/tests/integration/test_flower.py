"""Flower, as it comes from PyPI, shows what this library sends.

How it works: Flower in an environment of its own listens to the events of a worker that sends them, and is asked
over its HTTP API.
"""

import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from async_celery import AsyncCelery

from .conftest import Address, Eventually, running_worker, temporary_queue
from .environments import Environments


class Flower:
    """A running Flower, asked over its HTTP API."""

    def __init__(self, process: "subprocess.Popen[bytes]", *, port: int, log: Path) -> None:
        self._process, self._log = process, log
        self._url = f"http://127.0.0.1:{port}/api"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def task(self, task_id: str) -> dict[str, Any] | None:
        """Return what Flower knows of a task, None for nothing (yet), or while it is starting."""
        assert self._process.poll() is None, self._log.read_text()
        try:
            with self._opener.open(f"{self._url}/task/info/{task_id}", timeout=5) as answer:
                known: dict[str, Any] = json.load(answer)
                return known
        except urllib.error.HTTPError as error:
            error.close()  # it is an answer; Python 3.14 complains about one that is left open
            return None
        except urllib.error.URLError:
            return None


@pytest.fixture
def eventful_queue(broker: Address, backend: Address, tmp_path: Path) -> Iterator[str]:
    """The queue of a worker that sends events."""
    urls = {"broker_url": broker.url(), "backend_url": backend.url()}
    with (
        temporary_queue(broker, "flower") as queue,
        running_worker(tmp_path, **urls, queue=queue, processes=1, options=["--task-events"]),
    ):
        yield queue


@pytest.fixture
def flower(environments: Environments, broker: Address, tmp_path: Path) -> Iterator[Flower]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(environments.python("flower")), "-m", "celery", "--broker", broker.url()]
    command += ["flower", "--address=127.0.0.1", f"--port={port}"]
    log = tmp_path / "flower.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            # In a folder without a flowerconfig.py.
            command,
            cwd=tmp_path,
            env={"FLOWER_UNAUTHENTICATED_API": "true"},
            stdout=output,
            stderr=output,
        )
    try:
        yield Flower(process, port=port, log=log)
    finally:
        process.kill()
        process.wait()


async def test_flower_shows_our_task(
    client: AsyncCelery, eventful_queue: str, flower: Flower, eventually: Eventually
) -> None:
    shown: dict[str, Any] = {}

    async def is_shown() -> bool:
        # Flower knows what was sent since it began to listen, which it does not tell: send until it does.
        handle = await client.send_task("add", (20,), {"y": 22}, queue=eventful_queue)
        await handle.result(timeout=10)
        shown.update(flower.task(handle.id) or {})
        # Nor all of the task at which it began.
        return bool(shown.get("name"))

    await eventually(is_shown)

    async def has_succeeded() -> bool:
        shown.update(flower.task(shown["uuid"]) or {})
        return bool(shown["state"] == "SUCCESS")

    await eventually(has_succeeded)
    assert (shown["name"], shown["args"], shown["kwargs"]) == ("add", "(20,)", "{'y': 22}")
    assert (shown["result"], shown["worker"].startswith(eventful_queue)) == ("42", True)
