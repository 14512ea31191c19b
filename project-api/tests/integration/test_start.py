"""The API beside queues that an older version has declared: it says what to do, and ends (row B6)."""

import os
from pathlib import Path

import httpx
import pytest
from celery import Celery
from processes import Api, wait_until

from project_contracts.queues import PROJECT_WORKER

VIRTUAL_HOST = "an-older-version"


@pytest.fixture
def older_queue() -> str:
    """A classic queue of the name that ours has, in a virtual host of its own; returns that."""
    env = os.environ
    login = (env["RABBITMQ_USER"], env["RABBITMQ_PASSWORD"])
    with httpx.Client(
        base_url=f"http://{env['RABBITMQ_HOST']}:{env['RABBITMQ_MANAGEMENT_PORT']}/api", auth=login
    ) as api:
        api.delete(f"/vhosts/{VIRTUAL_HOST}")
        api.put(f"/vhosts/{VIRTUAL_HOST}").raise_for_status()
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        api.put(f"/permissions/{VIRTUAL_HOST}/{login[0]}", json=rights).raise_for_status()
    url = f"amqp://{login[0]}:{login[1]}@{env['RABBITMQ_HOST']}:{env['RABBITMQ_PORT']}/{VIRTUAL_HOST}"
    with Celery(broker=url, set_as_current=False).connection_for_write() as connection:
        connection.default_channel.queue_declare(PROJECT_WORKER, durable=True, auto_delete=False)
    return VIRTUAL_HOST


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


def test_a_broker_that_is_away_does_not(tmp_path: Path) -> None:
    api = Api(tmp_path / "log", {"RABBITMQ_PORT": "1"})
    try:
        wait_until(api.alive, 20, "the API lives")
    finally:
        api.process.kill()
        api.process.wait()
