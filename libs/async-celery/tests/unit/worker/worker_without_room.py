"""A program: a worker starts with metrics, in a folder without room for their files (a small tmpfs).

How it works: `main` meets a folder that is too small; `child` one that was filled after the main process had its
files. It prints who is told of tasks then.
"""

import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from celery import Celery, signals

from async_celery.queues import work_queue
from async_celery.worker import Policy, install
from async_celery.worker.metrics import service
from async_celery.worker.observer import observer_of


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def start(process: str, folder: Path) -> None:
    app = Celery("tests", set_as_current=False)
    app.conf.update(task_default_queue="work", task_queues=[work_queue("work", max_length=1, delivery_limit=1)])
    install(app, Policy())
    for number in range(5):

        @app.task(name=f"task-{number}", shared=False)
        def task() -> None: ...

    service.install_metrics(app, port=1, directory=folder)
    signals.celeryd_after_setup.send(sender="worker", instance=SimpleNamespace(app=app), conf=app.conf)
    if process == "child":
        fill(folder / "full")
        child = SimpleNamespace(name="ForkPoolWorker-1", index=0)
        with patch.object(service, "current_process", lambda: child):
            signals.worker_process_init.send(sender="worker")
    observer_of(app).message_received("task-1", {"delivery_info": {"routing_key": "work"}})
    print(type(observer_of(app)).__name__)  # noqa: T201 (what it was asked)


if __name__ == "__main__":
    start(sys.argv[1], Path(sys.argv[2]))
