"""Service: the files of a worker's processes, and the one endpoint that adds them up.

How it works: the signals of a worker's start come in this order. Before the pool forks (`celeryd_after_setup`),
the main process makes a folder for the files (`folders.py`) and the metrics (`recorder.py`). Each process of the
pool (`worker_process_init`) then writes files of its own, named by its place in the pool: its successor goes on
with them, so counts outlive the process that made them, and there are never more files than places. When the
worker takes tasks (`worker_ready`), the main process starts the endpoint, in a thread. Each request reads the
files anew; nothing is kept between two.

The files are mapped into memory: where it lacks when they are written, the kernel kills the process. So all of
it is taken before they are opened.

Whatever cannot be had, a folder or the port, is logged once, and the worker works without metrics.

What belongs here: when what is made, and what happens when it cannot be.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from billiard.process import current_process
from celery import signals
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server, values
from prometheus_client.multiprocess import MultiProcessCollector

from async_celery.worker.metrics.folders import default_parent, make_folder
from async_celery.worker.metrics.recorder import Recorder
from async_celery.worker.metrics.state import StateCollector
from async_celery.worker.observer import NOBODY, observe

if TYPE_CHECKING:
    from celery import Celery

_logger = logging.getLogger(__name__)

_MAIN = "main"
_place = _MAIN

_LEAST_MEMORY = 1 << 20  # bytes of a file
_MEMORY_OF_TASK = 32 << 10  # bytes for each queue; its histograms take some 22 KiB


def install_metrics(
    app: "Celery", *, port: int, host: str = "127.0.0.1", directory: str | Path | None = None
) -> None:
    """Have the app's worker serve its metrics, once it runs. Call it after `install`.

    Args:
        app: of `async_celery.worker.install`.
        port: of the endpoint, which every path leads to; 0 is any that is free, and the log says which.
        host: the address that it listens on; "0.0.0.0" for a container whose Prometheus is in another one.
        directory: where workers make folders for their files; in shared memory when None.
    """
    service = _Service(app, host, port, default_parent() if directory is None else Path(directory))
    for signal, receiver in (
        (signals.celeryd_after_setup, service.prepare),
        (signals.worker_before_create_process, service.count_child),
        (signals.worker_process_init, service.enter_child),
        (signals.worker_ready, service.serve),
        (signals.worker_shutdown, service.clean_up),
    ):
        signal.connect(receiver, weak=False)


@dataclass(frozen=True, kw_only=True)
class _Recording:
    """Where a worker's files are, and what writes them."""

    folder: Path
    recorder: Recorder


class _Service:
    """The metrics of one app's worker."""

    def __init__(self, app: "Celery", host: str, port: int, parent: Path) -> None:
        self._app, self._host, self._port, self._parent = app, host, port, parent
        self._recording: _Recording | None = None
        self._server: Any = None

    def prepare(self, instance: Any, **_: Any) -> None:
        """In the main process, before it forks: make folder and metrics."""
        if instance.app is not self._app:
            return
        tasks, queues = len(self._app.tasks), len(self._app.amqp.queues.consume_from)
        folder = None
        try:
            folder = make_folder(self._parent)
            _take_memory(folder, max(_LEAST_MEMORY, tasks * queues * _MEMORY_OF_TASK))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
            # Looked up whenever a metric, or one more of its labels, is made.
            values.ValueClass = values.MultiProcessValue(lambda: _place)  # type: ignore[no-untyped-call]
            recorder = Recorder(self._app)
        except OSError as exc:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            _logger.warning(
                "No metrics of this worker: their files cannot be written in %s (%s). Give the worker another "
                "directory for them, or make this one writable, with room for them.",
                self._parent,
                exc,
            )
            return
        self._recording = _Recording(folder=folder, recorder=recorder)
        observe(self._app, recorder)

    def count_child(self, **_: Any) -> None:
        """In the main process: the pool forks."""
        if self._recording is not None:
            self._recording.recorder.child_starts()

    def enter_child(self, **_: Any) -> None:
        """In a process of the pool: write files of its own; leave the endpoint to the main process."""
        global _place
        process: Any = current_process()
        if self._recording is None or process.name == "MainProcess":
            return
        if self._server is not None:
            # Forked with it: it would keep the port when the main process is gone.
            self._server.socket.close()
        _place = f"child{process.index}"
        try:
            folder = self._recording.folder
            _take_memory(folder, max(file.stat().st_size for file in folder.glob(f"*_{_MAIN}.db")))
            self._recording.recorder.move_in(_file(folder, "counter"))
        except OSError as exc:
            _logger.warning("The tasks of this process are not counted: its files cannot be made (%s)", exc)
            observe(self._app, NOBODY)

    def serve(self, sender: Any, **_: Any) -> None:
        """In the main process, when it takes tasks: start the endpoint."""
        if self._recording is None or sender.app is not self._app:
            return
        registry = CollectorRegistry(support_collectors_without_names=True)
        MultiProcessCollector(registry, str(self._recording.folder))  # type: ignore[no-untyped-call]
        registry.register(StateCollector(sender, tasks=self._recording.recorder.tasks))
        ProcessCollector(registry=registry)
        try:
            self._server, _thread = start_http_server(self._port, addr=self._host, registry=registry)
        except OSError as exc:
            _logger.warning(
                "No metrics of this worker: it cannot listen on %s:%d (%s). Give it another port for them, or "
                "stop what has this one.",
                self._host,
                self._port,
                exc,
            )
            return
        _logger.info("Metrics are served on http://%s:%d/metrics", self._host, self._server.server_port)

    def clean_up(self, **_: Any) -> None:
        """In the main process, at its end: leave nothing behind."""
        if self._recording is not None:
            shutil.rmtree(self._recording.folder, ignore_errors=True)


def _take_memory(folder: Path, size: int) -> None:
    """Make this process's files, if those before it have not, and take the memory for them.

    Args:
        folder: where they go.
        size: of each, in bytes. prometheus_client takes a file of zeros for an empty one.

    Raises:
        OSError: there is none left.
    """
    for kind in ("counter", "histogram"):
        path = _file(folder, kind)
        # Whoever reads all files meanwhile does not find it before it is whole.
        taken = path if path.exists() else path.with_suffix(".new")
        with taken.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, file.tell()))
        taken.rename(path)


def _file(folder: Path, kind: str) -> Path:
    """Return where prometheus_client has this process's metrics of a kind."""
    return folder / f"{kind}_{_place}.db"
