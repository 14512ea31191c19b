"""Both workers' metrics, over their ports: which tasks, which queue, and nothing where none is wanted."""

import socket
import urllib.request
from pathlib import Path

from worker_process import IMPORT_ROOT, SEED_COMMAND, running_worker, wait_until

from project_contracts.integers import INTEGERS_SUM
from project_contracts.invoices import INVOICE_TOTAL
from project_contracts.queues import PROJECT_WORKER, PROJECT_WORKER_PICKLE

PICKLE_COMMAND = "-A pickle_tasks:app worker -Q project-worker-pickle --concurrency=1 -n pickle@%h"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def lines(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode()).splitlines()


def test_the_worker_counts_its_tasks(tmp_path: Path) -> None:
    port = free_port()
    with running_worker(
        tmp_path,
        SEED_COMMAND,
        IMPORT_ROOT,
        WORKER_METRICS_PORT=port,
        WORKER_METRICS_DIRECTORY=tmp_path / "metrics",
    ) as worker:
        labels = f'queue="{PROJECT_WORKER}",state="success",task="{INTEGERS_SUM.name}"'
        finished = f"celery_worker_tasks_finished_total{{{labels}}}"
        assert f"{finished} 0.0" in lines(port)
        assert worker.send(INTEGERS_SUM, integers=[1, 2]).get(timeout=10) == 3
        wait_until(lambda: f"{finished} 1.0" in lines(port))
        assert list((tmp_path / "metrics").iterdir())
    assert not list((tmp_path / "metrics").iterdir())


def test_the_worker_of_signed_pickle_has_a_port_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    with running_worker(
        tmp_path,
        PICKLE_COMMAND,
        IMPORT_ROOT,
        WORKER_METRICS_PORT=free_port(),
        PICKLE_WORKER_METRICS_PORT=port,
        WORKER_METRICS_DIRECTORY=tmp_path / "metrics",
    ):
        page = "\n".join(lines(port))
    assert f'queue="{PROJECT_WORKER_PICKLE}",task="{INVOICE_TOTAL.name}"' in page
    assert INTEGERS_SUM.name not in page


def test_without_a_port_there_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    with running_worker(
        tmp_path, SEED_COMMAND, IMPORT_ROOT, WORKER_METRICS_PORT=0, WORKER_METRICS_DIRECTORY=folder
    ) as worker:
        assert "etrics" not in worker.log.read_text()
    assert not folder.exists()
