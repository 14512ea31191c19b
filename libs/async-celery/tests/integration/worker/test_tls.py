"""A worker that reaches broker and result backend by TLS alone: real servers, a certificate that is checked.

How it works: the worker and its client know the TLS ports only. `rabbitmqctl` says that no connection to the
broker is without TLS, and Redis listens to nobody else (`port 0`).

What belongs here: what a worker does otherwise when its bytes come in TLS records.
"""

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, group

from async_celery.worker import dead_letters

from ..rabbitmq_server import MAX_MESSAGE_BYTES, RabbitServer
from ..redis_server import RedisServer
from .worker_process import WorkerProcess, wait_until


def conf(certificate: Path, **more: Any) -> dict[str, Any]:
    tls = {"ca_certs": str(certificate), "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "127.0.0.1"}
    return {"broker_use_ssl": tls, "worker_prefetch_multiplier": 8, "worker_enable_remote_control": False, **more}


@pytest.fixture(scope="module")
def broker(rabbit_server: RabbitServer) -> str:
    """Its URL by TLS; the dead letters' exchange and inbox are there."""
    assert rabbit_server.certificate is not None
    url = rabbit_server.url(rabbit_server.tls_port).replace("amqp:", "amqps:")
    app = Celery(broker=url, set_as_current=False)
    app.conf.update(conf(rabbit_server.certificate))
    with app.connection_for_write() as connection:
        dead_letters.declare(connection)
    return url


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[str]:
    """Its URL by TLS."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), *certificate)
    server.start()
    server.client.config_set("port", 0)
    url = server.url(server.tls_port).replace("redis:", "rediss:")
    yield f"{url}?ssl_cert_reqs=required&ssl_ca_certs={certificate[0]}"
    server.close()


@pytest.fixture(scope="module")
def earlier(rabbit_server: RabbitServer) -> set[str]:
    """Connections that tests before these have left open."""
    return set(connections_of(rabbit_server))


@pytest.fixture(scope="module")
def worker(
    broker: str,
    backend: str,
    certificate: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
    earlier: set[str],
) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("worker")
    made = WorkerProcess(
        folder, broker=broker, backend=backend, conf=conf(certificate[0]), queue="tls", processes=2
    )
    with made:
        yield made


def test_every_connection_is_tls_and_many_tasks_run_once(
    worker: WorkerProcess, rabbit_server: RabbitServer, earlier: set[str]
) -> None:
    """More than a record holds, read at once; and acknowledgements that are held."""
    count = 500
    ids = [worker.send("add", n, 1) for n in range(count)]
    assert [worker.ended(task_id)["result"] for task_id in ids] == list(range(1, count + 1))
    assert sorted(run.task_id for run in worker.oracle.executions() if run.task_id in set(ids)) == sorted(ids)
    connections = connections_of(rabbit_server)
    assert {is_tls for connection, is_tls in connections.items() if connection not in earlier} == {"true"}
    wait_until(lambda: unacknowledged(rabbit_server) == 0, what="all acknowledgements have gone")


def connections_of(rabbit_server: RabbitServer) -> dict[str, str]:
    """Whether each is TLS, as RabbitMQ writes it."""
    said = rabbit_server.control("list_connections", "--no-table-headers", "pid", "ssl")
    return dict(line.split() for line in said.splitlines())


def unacknowledged(rabbit_server: RabbitServer) -> int:
    """How many messages the worker has."""
    said = rabbit_server.control("list_queues", "--no-table-headers", "name", "messages_unacknowledged")
    return int(dict(line.split() for line in said.splitlines())["tls"])


def test_a_large_message_comes_whole_and_others_with_it(worker: WorkerProcess) -> None:
    """1 MiB, with all that is around it: the most that this broker takes, in frames of 8 KiB."""
    text = os.urandom((MAX_MESSAGE_BYTES - 10_000) // 2).hex()
    small, large = [], []
    for n in range(4):
        large.append(worker.send("echo", text))
        small.append(worker.send("add", n, n))
    assert [worker.ended(task_id)["result"] for task_id in small] == [0, 2, 4, 6]
    for task_id in large:
        assert worker.ended(task_id)["result"] == text


def close_connections(rabbit_server: RabbitServer) -> None:
    """Have the broker say that it ends them."""
    rabbit_server.control("close_all_connections", "test")


def power_cut(rabbit_server: RabbitServer) -> None:
    """End them without a word."""
    rabbit_server.kill()
    rabbit_server.start()


@pytest.mark.parametrize("cut", [close_connections, power_cut])
def test_a_connection_that_was_cut_is_made_anew_and_nothing_is_lost(
    worker: WorkerProcess, rabbit_server: RabbitServer, tmp_path: Path, cut: Callable[[RabbitServer], None]
) -> None:
    gate = tmp_path / "gate"
    logged = len(worker.text)
    # Two run, others have been taken, and others wait.
    held = [worker.send("hold", str(gate)) for _ in range(2)]
    waiting = [worker.send("add", n, 1) for n in range(40)]
    wait_until(lambda: {run.task_id for run in worker.oracle.executions()} >= set(held), what="two run")
    cut(rabbit_server)
    wait_until(lambda: "Connected to amqps://" in worker.text[logged:], 40, what="a new connection")
    gate.touch()
    assert [worker.ended(task_id, 40)["result"] for task_id in held] == ["released", "released"]
    assert [worker.ended(task_id, 40)["result"] for task_id in waiting] == list(range(1, 41))
    assert worker.process.poll() is None
    assert worker.ended(worker.send("add", 6, 7))["result"] == 13
    assert "Traceback" not in worker.text[logged:]


def test_a_group_of_large_results_is_joined(worker: WorkerProcess) -> None:
    """By TLS to Redis, both ways."""
    text = "é" * 100_000
    signatures = [worker.client.signature("echo", args=[text], app=worker.client) for _ in range(8)]
    assert group(signatures, app=worker.client)().get(timeout=20) == [text] * 8


def test_a_broker_that_nobody_vouches_for_is_not_spoken_to(
    broker: str, backend: str, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    unknown = conf(
        certificate[0], broker_use_ssl={"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "127.0.0.1"}
    )
    worker = WorkerProcess(tmp_path, broker=broker, backend=backend, conf=unknown)
    try:
        worker.launch()
        wait_until(lambda: "certificate verify failed" in worker.text, what="it says why")
        assert " ready." not in worker.text
    finally:
        worker.close()
