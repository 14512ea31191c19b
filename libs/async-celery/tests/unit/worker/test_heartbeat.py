"""When the heartbeat's file is touched."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
