"""The API beside queues that an older version has declared: it says what to do, and ends (row B6)."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import Api, wait_until

from project_contracts.queues import PROJECT_WORKER

VIRTUAL_HOST = "an-older-version"


@pytest.fixture
def older_queue() -> Iterator[str]:
    """A classic queue of the name that ours has, in a virtual host of its own; returns that."""
    env = os.environ
    login = (env["RABBITMQ_USER"], env["RABBITMQ_PASSWORD"])
    with httpx.Client(
        base_url=f"http://{env['RABBITMQ_HOST']}:{env['RABBITMQ_MANAGEMENT_PORT']}/api", auth=login
    ) as api:
        api.put(f"/vhosts/{VIRTUAL_HOST}").raise_for_status()
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        api.put(f"/permissions/{VIRTUAL_HOST}/{login[0]}", json=rights).raise_for_status()
        api.put(f"/queues/{VIRTUAL_HOST}/{PROJECT_WORKER}", json={"durable": True}).raise_for_status()
        yield VIRTUAL_HOST
        api.delete(f"/vhosts/{VIRTUAL_HOST}").raise_for_status()


def test_queues_of_another_kind_stop_the_start(older_queue: str, tmp_path: Path) -> None:
    api = Api(tmp_path / "log", {"RABBITMQ_VHOST": older_queue})
    try:
        wait_until(lambda: api.process.poll() is not None, 20, "the API ends")
        said = api.log.read_text()
        assert api.process.returncode != 0
        assert f"The queue '{PROJECT_WORKER}' exists already" in said
        assert f"rabbitmqctl delete_queue {PROJECT_WORKER}" in said
    finally:
        api.process.kill()
        api.process.wait()
