"""The worker starts with the seed's command, says so readably, and shows no secret."""

import os
import re
import socket
import subprocess
import sys
from typing import Any

import pytest
from worker_process import IMPORT_ROOT, SEED_COMMAND, RunningWorker, management, wait_until

from project_contracts.headers import REQUEST_ID
from project_contracts.integers import INTEGERS_SUM
from project_contracts.queues import PROJECT_WORKER, PROJECT_WORKER_PICKLE


@pytest.mark.parametrize("request_id", [None, "a-request.1"])
def test_log_has_one_line_per_task_and_no_password(worker: RunningWorker, request_id: str | None) -> None:
    headers = {} if request_id is None else {REQUEST_ID: request_id}
    task = worker.signature(INTEGERS_SUM, integers=[1, 2, 3]).apply_async(headers=headers)
    assert task.get(timeout=10) == 6

    def lines_about_task() -> list[str]:
        return [line for line in worker.log.read_text().splitlines() if task.id in line]

    # The client has its result before the worker writes its line.
    wait_until(lambda: bool(lines_about_task()))
    [succeeded] = lines_about_task()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO +"
    logger = rf"ForkPoolWorker-\d+ celery\.app\.trace \[{re.escape(request_id or '-')}\]"
    subject = rf"Task {INTEGERS_SUM.name}\[{task.id}\]"
    assert re.fullmatch(rf"{stamp}{logger} {subject} succeeded in .*s: 6", succeeded)
    log = worker.log.read_text()
    # The banner and the connection lines show both URLs, with their passwords masked.
    assert f"amqp://{worker.settings.rabbitmq_user}:**@" in log
    assert "redis://:**@" in log
    for secret in (worker.settings.rabbitmq_password, worker.settings.redis_password):
        assert f":{secret.get_secret_value()}@" not in log


def test_queue_keeps_what_it_accepts_and_sends_on_what_it_gives_up(worker: RunningWorker) -> None:
    with management() as api:
        queue = api.get(f"/queues/{worker.settings.rabbitmq_vhost}/{PROJECT_WORKER}").raise_for_status().json()
        bindings = api.get(f"/exchanges/{worker.settings.rabbitmq_vhost}/{PROJECT_WORKER}/bindings/source").json()
        returns = api.get(f"/bindings/{worker.settings.rabbitmq_vhost}").json()
    assert queue["durable"] is True
    assert queue["arguments"] == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 100,
        "x-max-length": 100_000,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "dead-letters",
        "x-dead-letter-routing-key": PROJECT_WORKER,
        "x-dead-letter-strategy": "at-least-once",
    }
    assert (PROJECT_WORKER, PROJECT_WORKER) in {(each["destination"], each["routing_key"]) for each in bindings}
    # The way back from a countdown.
    way = ("celery_delayed_delivery", PROJECT_WORKER, f"#.{PROJECT_WORKER}")
    assert way in {(each["source"], each["destination"], each["routing_key"]) for each in returns}


@pytest.mark.parametrize(
    ("app", "queue"),
    [("tasks", "project-wroker"), ("tasks", PROJECT_WORKER_PICKLE), ("pickle_tasks", PROJECT_WORKER)],
)
def test_a_queue_that_is_not_the_app_s_own_stops_the_start_with_a_message(app: str, queue: str) -> None:
    command = SEED_COMMAND.replace("tasks:app", f"{app}:app").replace("-Q project-worker", f"-Q {queue}")
    started = subprocess.run(
        [sys.executable, "-m", "celery", *command.split()],
        cwd=IMPORT_ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert started.returncode != 0
    assert queue in started.stderr


def test_lost_connections_are_noticed(worker: RunningWorker) -> None:
    """Confirms, heartbeat, keepalive and time-outs as they really are, not as they are set."""
    with worker.client.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        assert connection.connection.confirm_publish is True

    def heartbeats() -> set[int]:  # s; known once RabbitMQ has collected its statistics
        with management() as api:
            connections = (
                api.get(f"/vhosts/{worker.settings.rabbitmq_vhost}/connections").raise_for_status().json()
            )
        return {each["timeout"] for each in connections if "timeout" in each}

    wait_until(lambda: 10 in heartbeats())

    backend: Any = worker.client.backend
    pool = backend.client.connection_pool
    redis = pool.get_connection()
    try:
        assert redis._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert redis.socket_timeout == worker.settings.redis_socket_timeout_seconds
    finally:
        pool.release(redis)
