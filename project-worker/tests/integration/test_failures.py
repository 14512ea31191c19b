"""What happens to tasks that fail, hang or lose their process, on a worker with small limits."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from sample_contracts import CONNECT, DIE, DIE_ONCE, GATE, INVALID, PID, READ, SLEEP, SWALLOW, runs
from worker_process import RunningWorker, running_worker, wait_until

from async_celery.worker import WorkerLost

COMMAND = "-A tests_app:app worker --concurrency=1 -n tests@%h --without-gossip --without-mingle"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def strict_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    """Time limits of 1 s (soft) and 2 s (hard), retries within a second."""
    with running_worker(
        tmp_path_factory.mktemp("strict"),
        COMMAND,
        HERE,
        TASK_SOFT_TIME_LIMIT_SECONDS=1,
        TASK_TIME_LIMIT_SECONDS=2,
        RETRY_BACKOFF_MAX_SECONDS=1,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def mortal_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    """Time limits out of the way: Celery may need 5 s to see that a child is dead."""
    with running_worker(tmp_path_factory.mktemp("mortal"), COMMAND, HERE, TASK_MAX_RETRIES=1) as running:
        yield running


def test_refused_connection_is_retried_until_it_works(strict_worker: RunningWorker, tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # bound but not listening: ours alone, and every connection is refused
        task = strict_worker.send(CONNECT, folder=str(tmp_path), port=server.getsockname()[1])
        wait_until(lambda: runs(tmp_path) == 3)
        server.listen()
        (tmp_path / GATE).touch()
        assert task.get(timeout=10) == 3
    assert runs(tmp_path) == 3


def test_timeout_is_retried(strict_worker: RunningWorker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)  # a second connection that never comes ends the thread

        def answer_the_second_connection() -> None:
            silent, _ = server.accept()
            second, _ = server.accept()
            second.sendall(b"!")
            second.close()
            silent.close()

        answering = threading.Thread(target=answer_the_second_connection)
        answering.start()
        assert strict_worker.send(READ, folder=str(tmp_path), port=server.getsockname()[1]).get(timeout=10) == 2
        answering.join()


def test_retries_end(strict_worker: RunningWorker, tmp_path: Path) -> None:
    (tmp_path / GATE).touch()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        task = strict_worker.send(CONNECT, folder=str(tmp_path), port=server.getsockname()[1])
        with pytest.raises(ConnectionRefusedError):
            task.get(timeout=20)
    assert task.state == "FAILURE"
    assert runs(tmp_path) == strict_worker.settings.task_max_retries + 1 == 5


def test_other_errors_are_not_retried(strict_worker: RunningWorker, tmp_path: Path) -> None:
    task = strict_worker.send(INVALID, folder=str(tmp_path))
    with pytest.raises(ValueError, match="this will never work"):
        task.get(timeout=10)
    assert runs(tmp_path) == 1


def test_soft_limit_interrupts_the_task(strict_worker: RunningWorker) -> None:
    task = strict_worker.send(SLEEP, seconds=30)
    with pytest.raises(SoftTimeLimitExceeded):
        task.get(timeout=10)
    assert task.state == "FAILURE"


def test_hard_limit_ends_what_swallows_the_soft_one(strict_worker: RunningWorker, tmp_path: Path) -> None:
    child = strict_worker.send(PID).get(timeout=10)
    started = time.monotonic()
    task = strict_worker.send(SWALLOW, folder=str(tmp_path))
    with pytest.raises(TimeLimitExceeded):
        task.get(timeout=10)
    assert time.monotonic() - started < strict_worker.settings.task_time_limit_seconds + 3
    assert task.state == "FAILURE"
    # The slot is free again, in a new process, and the task has not been put back.
    assert strict_worker.send(PID).get(timeout=10) != child
    assert runs(tmp_path) == 1


def test_task_survives_the_death_of_its_process(mortal_worker: RunningWorker, tmp_path: Path) -> None:
    assert mortal_worker.send(DIE_ONCE, folder=str(tmp_path)).get(timeout=20) == 2
    assert runs(tmp_path) == 2


def test_task_that_always_kills_its_process_ends_as_failure(mortal_worker: RunningWorker, tmp_path: Path) -> None:
    task = mortal_worker.send(DIE, folder=str(tmp_path))
    with pytest.raises(WorkerLost, match="its worker died 2 times"):
        task.get(timeout=40)
    assert runs(tmp_path) == mortal_worker.settings.task_max_retries + 1
    assert isinstance(mortal_worker.send(PID).get(timeout=20), int)


def test_task_of_a_dead_worker_is_given_to_the_next_one(tmp_path: Path) -> None:
    """Acknowledged late: until the task ends, its message is the broker's to give away again."""
    with running_worker(tmp_path, COMMAND, HERE) as doomed:
        task = doomed.send(SLEEP, seconds=60)
        wait_until(lambda: task.state == "STARTED")
        doomed.process.kill()
        doomed.process.wait()

        with doomed.client.connection_for_read() as connection:
            channel: Any = connection.channel()
            received: list[Any] = []

            def message_is_back() -> bool:
                received.append(channel.basic_get(SLEEP.queue))
                return received[-1] is not None

            wait_until(message_is_back)
        assert received[-1].headers["id"] == task.id
        assert received[-1].delivery_info["redelivered"] is True
