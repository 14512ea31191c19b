"""What is counted and measured, read back from the files that a worker's processes write."""

import errno
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from prometheus_client import values
from prometheus_client.multiprocess import MultiProcessCollector

from async_celery.queues import work_queue
from async_celery.types import PUBLISHED_AT
from async_celery.worker import Policy, install
from async_celery.worker.metrics import folders, service
from async_celery.worker.metrics.recorder import OTHER, Recorder
from async_celery.worker.observer import NOBODY, End, Observer, observe, observer_of
from async_celery.worker.task import GivenUp, Revoked

PROJECT = Path(__file__).parents[3]


class Recorded:
    """A recorder of an app with the task `it` on the queue `work`, and what it has written."""

    def __init__(self, folder: Path) -> None:
        app = Celery("tests", set_as_current=False)
        app.conf.update(
            task_default_queue="work", task_queues=[work_queue("work", max_length=1, delivery_limit=1)]
        )
        install(app, Policy())

        @app.task(name="it", shared=False)
        def it() -> None: ...

        self.app, self.task, self._folder = app, it, folder
        self.recorder = Recorder(app)
        observe(app, self.recorder)

    def value(self, name: str, **labels: str) -> float | None:
        collector: Any = MultiProcessCollector(None, path=str(self._folder))  # type: ignore[no-untyped-call]
        for metric in collector.collect():
            for sample in metric.samples:
                if (sample.name, sample.labels) == (f"celery_worker_{name}", labels):
                    value: float = sample.value
                    return value
        return None

    def run(self, *, started: float = 1000.0, **headers: Any) -> dict[str, Any]:
        """Have a run begin; return its request."""
        request = {"started_at": started, "delivery_info": {"routing_key": "work"}, **headers}
        self.recorder.run_began("it", request)
        return request


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    value_class: Any = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(values, "ValueClass", value_class)
    yield Recorded(tmp_path)
    value_class.close_all_files()


def test_without_metrics_nobody_listens() -> None:
    assert type(observer_of(Celery("tests", set_as_current=False))) is Observer


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({PUBLISHED_AT: 990.0}, 10),
        ({PUBLISHED_AT: 990.0, "eta": datetime.fromtimestamp(997, UTC).isoformat()}, 3),
        ({PUBLISHED_AT: 990.0, "eta": "1970-01-01T00:16:37"}, 3),
        ({PUBLISHED_AT: 990.0, "eta": "soon"}, 10),
        ({PUBLISHED_AT: 990.0, "eta": 7}, 10),
        ({PUBLISHED_AT: 1060.0}, 0),
    ],
)
def test_a_task_waits_from_its_publishing_or_its_eta(
    recorded: Recorded, headers: dict[str, Any], waited: float
) -> None:
    recorded.run(**headers)
    labels = {"task": "it", "queue": "work"}
    assert recorded.value("task_queue_duration_seconds_sum", **labels) == waited
    assert recorded.value("task_queue_duration_seconds_count", **labels) == 1
    assert recorded.value("clock_skew_total") == (headers[PUBLISHED_AT] > 1000)


@pytest.mark.parametrize("published", [None, "then", float("nan"), [1]])
def test_nobody_knows_how_long_a_task_waits_that_does_not_say_when_it_was_sent(
    recorded: Recorded, published: Any
) -> None:
    recorded.run(**{PUBLISHED_AT: published, "received_at": 998.0})
    assert recorded.value("task_queue_duration_seconds_count", task="it", queue="work") == 0
    assert recorded.value("task_prefetch_duration_seconds_sum") == 2


def test_the_storing_of_its_end_is_not_a_task_s_duration(recorded: Recorded) -> None:
    request = recorded.run()
    recorded.recorder.result_stored("it", 5.0)
    time.sleep(0.01)
    recorded.recorder.message_ended("it", request, End.SUCCESS)
    duration = recorded.value("task_duration_seconds_sum", task="it", state="success")
    assert duration is not None
    assert -5 < duration < -4
    assert recorded.value("result_store_duration_seconds_sum", task="it") == 5
    # What had no run has no duration.
    recorded.recorder.message_ended("it", {"delivery_info": {"routing_key": "work"}}, End.FAILURE, "WorkerLost")
    assert recorded.value("task_duration_seconds_count", task="it", state="failure") == 0
    assert recorded.value("task_failures_total", task="it", exception="WorkerLost") == 1


@pytest.mark.parametrize(
    ("routing_key", "queue"),
    [("work", "work"), (f"{'0.' * 27}1.work", "work"), ("elsewhere", OTHER), (None, OTHER), ("", OTHER)],
)
def test_a_queue_is_a_label_if_it_is_consumed_here(
    recorded: Recorded, routing_key: str | None, queue: str
) -> None:
    recorded.recorder.message_received("it", {"delivery_info": {"routing_key": routing_key}})
    assert recorded.value("tasks_received_total", task="it", queue=queue) == 1


def test_a_task_is_a_label_if_it_was_known_at_the_start(recorded: Recorded) -> None:
    recorded.recorder.message_received("late", {})
    recorded.recorder.result_stored(None, 1.0)
    assert recorded.value("tasks_received_total", task=OTHER, queue=OTHER) == 1
    assert recorded.value("result_store_duration_seconds_count", task=OTHER) == 1


def outcome(info: TraceInfo | None) -> Any:
    return trace_ok_t(None, info, 0.0, None)


@pytest.mark.parametrize(
    ("told", "end", "error"),
    [
        (None, "success", None),
        (TraceInfo("FAILURE", ZeroDivisionError()), "failure", "ZeroDivisionError"),
        (TraceInfo("RETRY", Retry()), "retry", None),
        (TraceInfo("IGNORED", Ignore()), "ignored", None),
        (TraceInfo("REJECTED", Reject("no", requeue=True)), "rejected", None),
        (TraceInfo("REJECTED", GivenUp("WorkerLost: it died: 5 times", requeue=False)), "failure", "WorkerLost"),
    ],
)
def test_a_pool_s_process_tells_of_what_it_ends(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, told: TraceInfo | None, end: str, error: str | None
) -> None:
    task: Any = recorded.task
    monkeypatch.setattr(task, "_guard", lambda *_: outcome(told))
    task.__trace__ = lambda *_: None
    assert task.__trace__("a", [], {}, {"delivery_info": {"routing_key": "work"}}).info is told
    for state in End:
        counted = recorded.value("tasks_finished_total", task="it", queue="work", state=state.value)
        assert counted == (state == end), state
    if error is not None:
        assert recorded.value("task_failures_total", task="it", exception=error) == 1


def test_of_a_revoked_task_the_main_process_tells(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = recorded.task
    monkeypatch.setattr(task, "_guard", lambda *_: outcome(TraceInfo("IGNORED", Revoked("revoked"))))
    task.__trace__ = lambda *_: None
    task.__trace__("a", [], {}, {"delivery_info": {"routing_key": "work"}})
    for state in End:
        assert recorded.value("tasks_finished_total", task="it", queue="work", state=state.value) == 0


def test_what_goes_wrong_with_counting_is_told_once_and_nothing_else(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        recorded.recorder.message_received("it", {"delivery_info": "nonsense"})
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    recorded.recorder.message_received("it", {"delivery_info": {"routing_key": "work"}})
    assert recorded.value("tasks_received_total", task="it", queue="work") == 1


def test_the_soft_time_limit_reaches_the_task(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    def over(*_: object) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(recorded.recorder, "_prefetch_duration", SimpleNamespace(observe=over))
    with pytest.raises(SoftTimeLimitExceeded):
        recorded.run(received_at=998.0)


def test_exceptions_are_bounded_over_all_processes_of_one_place(recorded: Recorded, tmp_path: Path) -> None:
    def fail(recorder: Recorder, name: str) -> None:
        recorder.message_ended("it", {}, End.FAILURE, name)

    for number in range(99):
        fail(recorded.recorder, f"MadeUp{number}")
    successor = Recorder(recorded.app)
    successor.move_in(tmp_path / f"counter_{os.getpid()}.db")
    for name in ("New", "NewToo", "MadeUp7", "AlsoNew"):
        fail(successor, name)
    counted = {name: recorded.value("task_failures_total", task="it", exception=name) for name in ("New", OTHER)}
    assert counted == {"New": 1, OTHER: 2}
    assert recorded.value("task_failures_total", task="it", exception="MadeUp7") is not None
    assert recorded.value("task_failures_total", task="it", exception="NewToo") is None


def test_files_with_nothing_in_them_yet_are_no_figures(recorded: Recorded, tmp_path: Path) -> None:
    recorded.recorder.message_received("it", {"delivery_info": {"routing_key": "work"}})
    for number in range(40):
        for kind in ("counter", "histogram"):
            (tmp_path / f"{kind}_child{number}.db").write_bytes(bytes(1 << 20))
    assert recorded.value("tasks_received_total", task="it", queue="work") == 1


@pytest.mark.parametrize(
    ("process", "size", "said"), [("main", "64k", "No metrics of this worker"), ("child", "4m", "not counted")]
)
def test_full_memory_kills_no_process(tmp_path: Path, process: str, size: str, said: str) -> None:
    """What is mapped and not there kills who writes it: `worker_without_room` runs in a small tmpfs."""
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(tmp_path)]
    try:
        subprocess.run([*inside, *mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"nothing can be mounted here: {exc}")
    program = [sys.executable, "-m", "tests.unit.worker.worker_without_room", process, str(tmp_path)]
    both = f"{shlex.join(mount)} && exec {shlex.join(program)}"
    ended = subprocess.run([*inside, "sh", "-c", both], cwd=PROJECT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "Observer\n"), ended.stderr
    assert said in ended.stderr


def test_a_process_without_room_for_its_files_works_uncounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Later, the kernel would kill it where it writes what the memory is full for."""

    def no_room(*_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "restored afterwards")
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setattr(service, "_place", "main")
    app = Celery("tests", set_as_current=False)
    install(app, Policy())
    service.install_metrics(app, port=1, directory=tmp_path)
    signals.celeryd_after_setup.send(sender="worker", instance=SimpleNamespace(app=app), conf=app.conf)
    assert isinstance(observer_of(app), Recorder)
    process = SimpleNamespace(name="ForkPoolWorker-1", index=0)
    monkeypatch.setattr(service, "current_process", lambda: process)
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    signals.worker_process_init.send(sender="worker")
    assert observer_of(app) is NOBODY
    assert "not counted" in caplog.text
    value_class: Any = values.ValueClass
    value_class.close_all_files()


def test_a_folder_goes_when_nobody_holds_it(tmp_path: Path) -> None:
    parent = tmp_path / "metrics"
    first = folders.make_folder(parent)
    second = folders.make_folder(parent)
    assert {path.name for path in parent.iterdir()} == {first.name, second.name}
    shutil.copytree(first, parent / "celery-metrics-abandoned")
    (parent / "celery-metrics-never-locked").mkdir()
    third = folders.make_folder(parent)
    assert set(parent.iterdir()) == {first, second, third}


def test_what_is_not_a_worker_s_is_left_alone(tmp_path: Path) -> None:
    """The folder for them may be one that others use: /tmp."""
    linked = tmp_path / "linked"
    parent = tmp_path / "shared"
    for folder in (parent / "worker-data", parent / "celery-metrics-of-mine", linked):
        folder.mkdir(parents=True)
        (folder / "precious").write_text("kept")
    (linked / "lock").touch()
    (parent / "celery-metrics-link").symlink_to(linked)
    made = folders.make_folder(parent)
    assert {path.name for path in parent.iterdir()} == {
        "worker-data",
        "celery-metrics-of-mine",
        "celery-metrics-link",
        made.name,
    }
    for folder in (parent / "worker-data", parent / "celery-metrics-of-mine", linked):
        assert (folder / "precious").read_text() == "kept"


def test_a_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError, match="is a link"):
        folders.make_folder(tmp_path / "link")


def test_another_user_s_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        folders.make_folder(tmp_path)
