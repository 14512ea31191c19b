"""When the heartbeat's file is touched."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.asynchronous.timer import Timer

from async_celery.worker import Policy, install
from async_celery.worker.heartbeat import Heartbeat


def consumer(policy: Policy) -> Any:
    app = Celery(set_as_current=False)
    install(app, policy)
    return SimpleNamespace(app=app, timer=Timer())


def pending(it: Any) -> list[Any]:
    return [entry for entry in it.timer.queue if not entry.entry.canceled]


def test_file_is_touched_while_connected_and_no_longer(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    it = consumer(Policy(heartbeat_file=file, heartbeat_interval=1))
    step = Heartbeat(it)
    step.start(it)
    assert file.exists()
    assert len(pending(it)) == 1
    file.unlink()
    pending(it)[0].entry()
    assert file.exists()
    step.stop(it)
    assert pending(it) == []
    # Connected again.
    step.start(it)
    assert len(pending(it)) == 1


def test_no_file_is_no_heartbeat() -> None:
    it = consumer(Policy())
    step = Heartbeat(it)
    step.start(it)
    step.stop(it)
    assert pending(it) == []


def test_a_file_that_cannot_be_touched_is_told_once_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    # kombu lets no timer run again before its interval is over.
    it = consumer(Policy(heartbeat_file=folder / "alive", heartbeat_interval=1e-9))
    step = Heartbeat(it)
    caplog.set_level("INFO", "async_celery.worker.heartbeat")

    def told_after(touches: int) -> list[str]:
        caplog.clear()
        for _ in range(touches):
            pending(it)[0].entry()
        return [record.levelname for record in caplog.records]

    for _outage in range(2):
        step.start(it)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert str(folder) in caplog.text
        # Nothing new after a reconnect, either.
        step.stop(it)
        step.start(it)
        assert told_after(2) == []
        folder.mkdir()
        assert told_after(2) == ["INFO"]
        assert (folder / "alive").exists()
        (folder / "alive").unlink()
        folder.rmdir()
        step.stop(it)
        caplog.clear()
