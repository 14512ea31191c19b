"""`async def` tasks and their transactions, on real workers and a real database: limits, cancellation, death."""

import asyncio
import json
import os
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import database
import pytest
from async_contracts import CONFLICT_ONCE, DOUBLE, HOLD, LOCATE, NOT_JSON, WRITE_TWICE, Place, cleaned_up
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery import chain
from celery.result import AsyncResult
from saboteur import Saboteur
from worker_process import RunningWorker, running_worker, wait_until

COMMAND = "-A async_app:app worker --concurrency=1 -n async@%h --without-gossip --without-mingle"
HERE = Path(__file__).parent
POOL_SIZE = 2
SOON = {"soft_time_limit": 3, "time_limit": 20}  # s; until then, even a busy machine has the transaction open
SOON_HARD = {"soft_time_limit": 3, "time_limit": 5}  # s


class Way:
    """The workers' way to PostgreSQL, which a test can bar; a proxy on a loop of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._proxy = Saboteur(host, port)
        self.open()

    @property
    def port(self) -> int:
        return self._proxy.port

    @property
    def is_used(self) -> bool:
        return self._proxy.is_used

    def open(self) -> None:
        self._do(self._proxy.open())

    def bar(self) -> None:
        """Cut every connection, and refuse new ones."""
        self._do(self._proxy.close())

    def close(self) -> None:
        self.bar()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(10)


@pytest.fixture(scope="module")
def way(own_database: str) -> Iterator[Way]:
    way = Way(os.environ["POSTGRES_HOST"], int(os.environ["POSTGRES_PORT"]))
    yield way
    way.close()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, way: Way) -> Iterator[RunningWorker]:
    """One child, time limits out of the way unless a task brings its own."""
    with running_worker(
        tmp_path_factory.mktemp("async"),
        COMMAND,
        HERE,
        POSTGRES_HOST="127.0.0.1",
        POSTGRES_PORT=way.port,
        POSTGRES_POOL_SIZE=POOL_SIZE,
        RETRY_BACKOFF_MAX_SECONDS=1,
        TASK_MAX_RETRIES=10,
        WORKER_NAME="async-tasks",
    ) as running:
        yield running


def hold(worker: RunningWorker, folder: Path, how: str, **options: Any) -> AsyncResult[Any]:
    """Send a task; return when it has a transaction open."""
    task = worker.signature(HOLD, folder=str(folder), how=how).apply_async(**options)
    wait_until(lambda: not idle(worker))
    return task


def cancel(worker: RunningWorker, task: AsyncResult[Any]) -> None:
    """Cancel it as the API does, by its tombstone."""
    backend: Any = worker.client.backend
    backend.bury(task.id)
    wait_until(lambda: str(task.state) == "REVOKED")  # not in the stubs' list


def locate(worker: RunningWorker) -> Place:
    return Place.model_validate(worker.send(LOCATE).get(timeout=20))


def connections(worker: RunningWorker) -> set[int]:
    """Return the database's processes that serve this worker."""
    rows = database.run(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
        worker.settings.worker_name,
    )
    return {row["pid"] for row in rows}


def committed(task: AsyncResult[Any]) -> bool:
    return bool(database.run("SELECT FROM inbox WHERE task_id = $1", task.id))


def idle(worker: RunningWorker) -> bool:
    """Whether no transaction of this worker is open."""
    return not database.run(
        "SELECT FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = $1 AND xact_start IS NOT NULL",
        worker.settings.worker_name,
    )


# ---- limits and cancellation ----


@pytest.mark.parametrize("how", ["await", "query"])
def test_soft_limit_rolls_back_and_the_child_goes_on(worker: RunningWorker, tmp_path: Path, how: str) -> None:
    before = locate(worker)
    task = hold(worker, tmp_path, how, **SOON)
    with pytest.raises(SoftTimeLimitExceeded):
        task.get(timeout=40)
    assert task.state == "FAILURE"
    assert_undone(worker, task, tmp_path, before)


@pytest.mark.parametrize("how", ["await", "query"])
def test_cancelling_rolls_back_and_the_child_goes_on(worker: RunningWorker, tmp_path: Path, how: str) -> None:
    before = locate(worker)
    task = hold(worker, tmp_path, how)
    cancel(worker, task)
    assert_undone(worker, task, tmp_path, before)


@pytest.mark.parametrize("how", ["block", "swallow"])
def test_hard_limit_ends_what_the_soft_one_does_not(worker: RunningWorker, tmp_path: Path, how: str) -> None:
    before = locate(worker)
    task = hold(worker, tmp_path, how, **SOON_HARD)
    with pytest.raises(TimeLimitExceeded):
        task.get(timeout=30)
    wait_until(lambda: idle(worker))
    assert not committed(task)
    assert locate(worker).pid != before.pid


def assert_undone(worker: RunningWorker, task: AsyncResult[Any], folder: Path, before: Place) -> None:
    """Assert that a task has cleaned up, and left its child as it was: on the same loop, with a free pool."""
    assert cleaned_up(folder) == 1
    assert not committed(task)
    assert idle(worker)
    after = locate(worker)
    assert (after.pid, after.loop) == (before.pid, before.loop)
    assert len(set(after.backends)) == len(connections(worker)) == POOL_SIZE


# ---- one loop, few connections ----


def test_tasks_of_a_child_share_a_loop_and_its_connections(worker: RunningWorker) -> None:
    tasks = [worker.send(LOCATE) for _ in range(200)]
    places = [Place.model_validate(task.get(timeout=30)) for task in tasks]
    assert len({(place.pid, place.loop) for place in places}) == 1
    used = {backend for place in places for backend in place.backends}
    assert len(used) == len(connections(worker)) == POOL_SIZE


def test_connections_that_were_closed_between_two_tasks_are_replaced(worker: RunningWorker, way: Way) -> None:
    before = locate(worker)
    for backend in connections(worker):
        database.run("SELECT pg_terminate_backend($1, 5000)", backend)
    wait_until(lambda: not way.is_used)  # the worker's ends are closed, too
    after = locate(worker)
    assert (after.pid, after.run) == (before.pid, 1)
    assert not set(before.backends) & set(after.backends)


def test_child_closes_its_connections_when_it_is_replaced(tmp_path: Path) -> None:
    with running_worker(
        tmp_path, COMMAND, HERE, WORKER_MAX_TASKS_PER_CHILD=2, POSTGRES_POOL_SIZE=POOL_SIZE, WORKER_NAME="mortal"
    ) as worker:
        places = [locate(worker) for _ in range(5)]
        assert len({place.pid for place in places}) == 3
        # Nothing of one child was used by another one.
        assert all(set(places[n].backends).isdisjoint(places[n + 2].backends) for n in range(3))
        wait_until(lambda: connections(worker) <= set(places[-1].backends))
    wait_until(lambda: not connections(worker))
    log = worker.log.read_text()
    assert "Traceback" not in log
    assert "did not close" not in log
    assert "leaves an asyncio task running" not in log


# ---- errors ----


def test_a_killed_child_s_transaction_is_undone_and_its_task_runs_again(
    worker: RunningWorker, tmp_path: Path
) -> None:
    task = worker.send(HOLD, folder=str(tmp_path), how="die once")
    assert task.get(timeout=20) == 2
    assert committed(task)


def test_conflict_is_retried(worker: RunningWorker) -> None:
    task = worker.send(CONFLICT_ONCE)
    assert task.get(timeout=10) == 2
    assert committed(task)


def test_broken_rule_is_the_answer(worker: RunningWorker) -> None:
    task = worker.send(WRITE_TWICE)
    with pytest.raises(Exception, match="a row with this key exists"):
        task.get(timeout=10)
    backend: Any = worker.client.backend
    assert json.loads(backend.get(backend.get_key_for_task(task.id)))["result"]["exc_type"] == "AlreadyExists"
    assert committed(task)


def test_result_that_is_no_json_is_a_failure(worker: RunningWorker) -> None:
    task = worker.send(NOT_JSON)
    with pytest.raises(Exception, match="JSON"):
        task.get(timeout=10)


def test_chain(worker: RunningWorker) -> None:
    step = worker.client.signature(DOUBLE.name, queue=DOUBLE.queue)
    last = chain(worker.signature(DOUBLE, number=1), step, step).apply_async()
    assert last.get(timeout=10) == 8


def test_absent_database_is_waited_for(worker: RunningWorker, way: Way, tmp_path: Path) -> None:
    """Lost while a task runs, then refused: it runs again until the database is back."""
    task = hold(worker, tmp_path, "query")
    way.bar()
    wait_until(lambda: task.state == "RETRY")
    other = worker.send(LOCATE)
    wait_until(lambda: other.state == "RETRY")
    way.open()
    wait_until(lambda: not idle(worker))  # the first one holds on again
    cancel(worker, task)
    assert not committed(task)
    assert Place.model_validate(other.get(timeout=10)).run > 1
