"""A worker's metrics, over its real endpoint: each state is counted once, whatever dies meanwhile.

How it works: `Metered` is a worker of `metrics_app` with two processes. After a test's tasks have ended, its
endpoint is asked until the numbers are those that were expected, and the test compares all of them.
"""

import json
import os
import random
import re
import signal
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from async_celery.worker import Policy
from async_celery.worker.observer import End

from ..faults import scaled
from .conftest import WorkerFactory
from .worker_process import WorkerProcess, alive, management, wait_until

APP = "tests.integration.worker.metrics_app:app"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(frozen=True, kw_only=True)
class Expense:
    """What a worker's metrics cost it.

    Attributes:
        files: their sizes in bytes, by name.
        series: how many the endpoint has.
        resident: memory of the main process, in MB.
        scrape: the fastest of some answers, in ms.
    """

    files: dict[str, int]
    series: int
    resident: float
    scrape: float


class Metered:
    """A worker, and what its endpoint says."""

    def __init__(self, worker: WorkerProcess, folder: Path) -> None:
        self.worker, self.folder = worker, folder

    def start(self, port: int = 0) -> "Metered":
        self.worker.start(METRICS_PORT=str(port), METRICS_DIRECTORY=str(self.folder))
        return self

    @property
    def port(self) -> int:
        """The one that it serves on, as it has logged."""
        found = re.search(r"Metrics are served on http://127\.0\.0\.1:(\d+)/metrics", self.worker.text)
        assert found, self.worker.text
        return int(found[1])

    def page(self) -> str:
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=20) as answer:
            text: str = answer.read().decode()
        return text

    def samples(self) -> Samples:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.page())
            for sample in family.samples
        }

    def expense(self) -> Expense:
        (folder,) = self.folder.iterdir()
        took = []
        for _ in range(10):
            began = time.perf_counter()
            self.page()
            took.append(time.perf_counter() - began)
        return Expense(
            files={file.name: file.stat().st_size for file in folder.glob("*.db")},
            series=len(self.samples()),
            resident=self.value("process_resident_memory_bytes") / 1e6,
            scrape=round(min(took) * 1000, 1),
        )

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the series that have these labels, and others."""
        wanted = set(labels.items())
        found = [value for (of, has), value in self.samples().items() if of == name and wanted <= has]
        assert found, f"there is no {name} {labels}"
        return sum(found)

    def ends(self) -> Counter[str]:
        """Return how many deliveries have ended, by state."""
        counts: Counter[str] = Counter()
        for (name, labels), value in self.samples().items():
            if name == "celery_worker_tasks_finished_total" and value:
                counts[dict(labels)["state"]] += int(value)
        return counts

    def wait_for_ends(self, **expected: int) -> None:
        """Wait until exactly these are counted, and see that they stay."""

        def counted() -> bool:
            return self.ends() == Counter(expected)

        with suppress(AssertionError):
            wait_until(counted, what="the counts")
        time.sleep(0.3)  # whoever counts twice has done it by then
        assert self.ends() == Counter(expected), self.worker.text[-3000:]


@pytest.fixture
def metered(make_worker: WorkerFactory, tmp_path: Path) -> Callable[..., Metered]:
    """Return a function that makes workers with metrics, not started."""

    def make(**options: Any) -> Metered:
        options = {"processes": 2, "app": APP, **options}
        return Metered(make_worker(**options), tmp_path / "metrics")

    return make


def test_what_is_known_at_the_start_is_zero(metered: Callable[..., Metered]) -> None:
    one = metered().start()
    queue = one.worker.settings.queue
    samples = one.samples()
    for end in End:
        key = frozenset({"task": "add", "queue": queue, "state": end.value}.items())
        assert samples["celery_worker_tasks_finished_total", key] == 0
    assert one.value("celery_worker_tasks_received_total", task="add", queue=queue) == 0
    for name in ("task_duration", "task_queue_duration", "task_prefetch_duration", "result_store_duration"):
        assert one.value(f"celery_worker_{name}_seconds_count") == 0
    assert one.value("celery_worker_tasks_running", task="add") == 0
    for gauge in ("tasks_prefetched", "oldest_running_task_age_seconds"):
        assert one.value(f"celery_worker_{gauge}") == 0
    assert one.value("celery_worker_pool_processes") == 2
    assert one.value("celery_worker_prefetch_limit") == 2
    assert one.value("celery_worker_child_starts_total") == 2
    for counter in ("unknown_tasks", "clock_skew"):
        assert one.value(f"celery_worker_{counter}_total") == 0
    assert one.value("process_resident_memory_bytes") > 0


def test_each_state_is_counted_once(metered: Callable[..., Metered], tmp_path: Path) -> None:
    one = metered(policy=Policy(cancel_check_interval=0.1)).start()
    worker = one.worker
    worker.ended(worker.send("add", 1, 2))
    worker.ended(worker.send("fail"))
    worker.ended(worker.send("retry_times", 1))
    worker.ended(worker.send("sleep", 30, time_limit=1))
    cancelled = worker.send("cooperate")
    wait_until(lambda: one.value("celery_worker_tasks_running", task="cooperate") == 1)
    assert one.value("celery_worker_oldest_running_task_age_seconds") > 0
    worker.client.control.revoke(cancelled, terminate=True)
    worker.ended(cancelled)
    worker.ended(worker.send("add", 1, 2, expires=-1))
    worker.ended(worker.send("die_times", 1))
    for requeued in ("ignore", "reject"):
        worker.send(requeued)
    one.wait_for_ends(
        success=3, failure=1, retry=1, time_limit=1, revoked=1, expired=1, worker_lost=1, ignored=1, rejected=1
    )
    assert one.value("celery_worker_tasks_received_total") == 11
    assert one.value("celery_worker_task_failures_total", task="fail", exception="ValueError") == 1
    assert one.value("celery_worker_task_duration_seconds_count", state="success") == 3
    assert one.value("celery_worker_task_duration_seconds_count") == 5
    assert one.value("celery_worker_tasks_prefetched") == 0
    # Two at the start, then after the time limit and after the death.
    wait_until(lambda: one.value("celery_worker_child_starts_total") == 4)
    assert one.value("celery_worker_clock_skew_total") == 0


def deliveries(worker: WorkerProcess) -> tuple[int, int]:
    """Return how often RabbitMQ has delivered messages of the work queue, and how many of them again."""
    vhost = worker.settings.broker.rpartition("/")[2]
    queue = quote(worker.settings.queue, safe="")
    counts = json.loads(management("GET", f"/queues/{vhost}/{queue}")).get("message_stats", {})
    return counts.get("deliver", 0), counts.get("redeliver", 0)


def test_counts_are_exact_while_processes_are_killed(metered: Callable[..., Metered]) -> None:
    """Against RabbitMQ's count of deliveries, and against the oracle's of runs."""
    tasks, kills = scaled(400, 10_000), scaled(6, 20)
    one = metered(policy=Policy(max_attempts=50)).start()
    worker = one.worker
    ids = [worker.send("sleep", random.choice((0, 0.005, 0.02))) for _ in range(tasks)]
    for number, task_id in enumerate(ids):
        if number % (tasks // kills) == tasks // kills // 2:
            os.kill(random.choice([child for child in worker.children() if alive(child)]), signal.SIGKILL)
        if number % 50 == 0:
            one.page()  # it answers while tasks run
        assert worker.ended(task_id, 60)["status"] == "SUCCESS"
    # Two at first; each that was killed has a successor.
    wait_until(lambda: one.value("celery_worker_child_starts_total") == 2 + kills, 60)
    for gauge in ("running", "prefetched"):
        wait_until(lambda name=f"celery_worker_tasks_{gauge}": one.value(name) == 0, 60)  # type: ignore[misc]
    received = one.value("celery_worker_tasks_received_total")
    # It counts some seconds late.
    wait_until(lambda: deliveries(worker)[0] >= received, 60, what="RabbitMQ's count")
    delivered, redelivered = deliveries(worker)
    ends = one.ends()
    lost, again = ends["worker_lost"], ends["ignored"]
    begun, runs = one.value("celery_worker_task_queue_duration_seconds_count"), len(worker.oracle.executions())
    print(  # noqa: T201 (what was measured)
        f"exactness: {tasks} tasks, {kills} kills; RabbitMQ delivered {delivered}, {redelivered} of them again; "
        f"received {received:g}, finished {dict(ends)}; the oracle saw {runs} runs, {begun:g} were counted"
    )
    assert worker.oracle.verdict(ids, allowed_extra=lost).good
    assert set(ends) <= {"success", "worker_lost", "ignored"}
    # Each delivery was received, and each one beyond a task's first was lost with its process.
    assert received == delivered == tasks + redelivered
    assert lost == redelivered <= kills
    # A process can die between storing its task and counting it: the next delivery is ignored. Or between
    # counting it and telling: that delivery has two ends, and the next is ignored.
    uncounted, twice = tasks - ends["success"], ends["success"] + again - tasks
    assert 0 <= uncounted <= again <= lost
    assert sum(ends.values()) == received + twice
    assert one.value("celery_worker_task_duration_seconds_count", state="success") == ends["success"]
    # A run counts before the task's own code, which notes it, and not all that was delivered has begun.
    assert runs <= begun <= received - again


def test_counts_outlive_the_processes_that_made_them(metered: Callable[..., Metered]) -> None:
    """One task per process: what it leaves behind is read as often as it is replaced."""
    tasks = scaled(30, 200)
    one = metered(options=["--max-tasks-per-child", "1"]).start()
    worker = one.worker
    before, known = one.expense(), one.samples()
    for number, task_id in enumerate([worker.send("add", 1, 2) for _ in range(tasks)]):
        if number % 5 == 0:
            seen = one.samples()
            assert not [key for key, value in known.items() if is_count(key) and seen[key] < value]
            known = seen
        worker.ended(task_id, 60)
    one.wait_for_ends(success=tasks)
    assert one.value("celery_worker_child_starts_total") >= tasks
    after = one.expense()
    print(f"{tasks} processes replaced: at first {before}, then {after}")  # noqa: T201 (what was measured)
    # No more files than places, and nothing in them that was not there.
    assert after.files == before.files
    assert after.files.keys() == {
        f"{kind}_{place}.db" for kind in ("counter", "histogram") for place in ("main", "child0", "child1")
    }
    assert after.series == before.series
    assert after.resident < before.resident + 20


def is_count(key: tuple[str, frozenset[tuple[str, str]]]) -> bool:
    """Return whether a sample never falls."""
    return key[0].startswith("celery_") and key[0].endswith(("_total", "_count", "_sum", "_bucket"))


@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])
def test_pools_without_processes_count_in_the_main_one(metered: Callable[..., Metered], pool: str) -> None:
    one = metered(pool=pool).start()
    one.worker.ended(one.worker.send("add", 1, 2))
    one.worker.ended(one.worker.send("fail"))
    one.wait_for_ends(success=1, failure=1)
    assert one.value("celery_worker_task_duration_seconds_count") == 2
    assert one.value("celery_worker_pool_processes") == {"threads": 2, "solo": 1, "asyncio": 2}[pool]


def test_waiting_is_measured_from_publishing_or_from_the_eta(metered: Callable[..., Metered]) -> None:
    one = metered(processes=1).start()
    worker = one.worker
    first = worker.send("sleep", 3.0)
    wait_until(lambda: one.value("celery_worker_tasks_running", task="sleep") == 1)
    second = worker.send("add", 1, 2)
    worker.ended(first)
    worker.ended(second)
    one.wait_for_ends(success=2)
    waited = one.value("celery_worker_task_queue_duration_seconds_sum", task="add")
    assert waited > 0.5
    timeline = worker.stored(second)["timeline"]
    # Two clocks, read one after the other: a busy machine can stop in between.
    assert waited == pytest.approx(timeline["started"] - timeline["published"], abs=0.5)
    run = one.value("celery_worker_task_duration_seconds_sum", task="sleep")
    timeline = worker.stored(first)["timeline"]
    assert run == pytest.approx(timeline["finished"] - timeline["started"], abs=0.5)
    assert one.value("celery_worker_result_store_duration_seconds_count") == 2
    eta = datetime.now(UTC) + timedelta(seconds=2)
    third = worker.send("echo", eta=eta)
    worker.ended(third)
    one.wait_for_ends(success=3)
    late = worker.stored(third)["timeline"]["started"] - eta.timestamp()
    waited = one.value("celery_worker_task_queue_duration_seconds_sum", task="echo")
    assert waited == pytest.approx(max(0, late), abs=0.5)


def test_neither_messages_nor_exceptions_make_series_without_end(metered: Callable[..., Metered]) -> None:
    """Not even those of a process that is replaced again and again."""
    one = metered(processes=1, options=["--max-tasks-per-child", "30"]).start()
    one.worker.send("unknown")
    wait_until(lambda: one.value("celery_worker_unknown_tasks_total") == 1)
    before, names = set(one.samples()), scaled(200, 10_000)
    for number in range(names):
        one.worker.send(f"unknown-{number}")
    wait_until(lambda: one.value("celery_worker_unknown_tasks_total") == 1 + names, 60)
    assert set(one.samples()) == before
    assert one.value("celery_worker_tasks_received_total") == 0
    ids = [one.worker.send("make_up", number) for number in range(120)]
    for task_id in ids:
        one.worker.ended(task_id)
    one.wait_for_ends(failure=120)
    assert one.value("celery_worker_task_failures_total", task="make_up", exception="__other__") == 20
    assert one.value("celery_worker_task_failures_total", task="make_up") == 120
    one.worker.dead_letters()


def test_a_port_that_is_taken_costs_the_metrics_only(metered: Callable[..., Metered]) -> None:
    one = metered()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        one.start(port)
        assert one.worker.ended(one.worker.send("add", 1, 2))["result"] == 3
    said = [line for line in one.worker.text.splitlines() if "No metrics of this worker" in line]
    assert len(said) == 1
    assert f"127.0.0.1:{port}" in said[0]
    assert "another port" in said[0]


def test_a_folder_that_cannot_be_made_costs_the_metrics_only(metered: Callable[..., Metered]) -> None:
    one = metered()
    one.folder.write_text("not a folder")
    one.start()
    assert one.worker.ended(one.worker.send("add", 1, 2))["result"] == 3
    said = [line for line in one.worker.text.splitlines() if "No metrics of this worker" in line]
    assert len(said) == 1
    assert str(one.folder) in said[0]
    assert "Metrics are served" not in one.worker.text


def test_who_asks_and_does_not_listen_disturbs_nobody(metered: Callable[..., Metered]) -> None:
    one = metered().start()
    silent = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(5)]
    try:
        for client in silent[1:]:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
        silent[-1].sendall(b"Host: there\r\n\r\n")
        assert one.worker.ended(one.worker.send("add", 1, 2))["result"] == 3
        one.wait_for_ends(success=1)
        assert one.worker.stop() == 0
    finally:
        for client in silent:
            client.close()


def test_the_endpoint_is_the_main_process_s_alone(metered: Callable[..., Metered]) -> None:
    one = metered().start()
    # Its successor is forked when there is an endpoint.
    (first, _) = one.worker.children()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(one.worker.children()) == 2 and first not in one.worker.children())
    socket_ = f"socket:[{listening(one.port)}]"
    assert socket_ in open_files(one.worker.process.pid)
    # At first it has all that its parent has.
    for child in one.worker.children():
        wait_until(lambda pid=child: socket_ not in open_files(pid))  # type: ignore[misc]  # mypy cannot infer it


def listening(port: int) -> str:
    """Return the inode of the socket that listens on a port of 127.0.0.1."""
    (inode,) = (
        fields[9]
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines())
        if fields[1] == f"0100007F:{port:04X}" and fields[3] == "0A"
    )
    return inode


def open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(link.readlink()))
    return found


def test_a_dead_worker_s_files_go_with_the_next_start(metered: Callable[..., Metered]) -> None:
    one = metered().start()
    (left,) = one.folder.iterdir()
    beside = metered().start()
    assert left.exists()
    (its,) = set(one.folder.iterdir()) - {left}
    beside.worker.stop()
    assert not its.exists()
    one.worker.close()
    assert left.exists()
    metered().start()
    assert not left.exists()
