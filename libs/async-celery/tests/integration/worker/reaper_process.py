"""A real reaper process for the tests of `async_celery.worker`.

How it works: `python -m async_celery.worker.reaper` with the app and the settings of a `WorkerProcess`.

What belongs here: starting, stopping and reading a reaper.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from .tasks_app import VARIABLE, AppSettings
from .worker_process import PROJECT, wait_until

_START_DEADLINE = 30.0  # s


class ReaperProcess:
    """A reaper of the tests' app; a context manager that starts and kills it."""

    def __init__(self, folder: Path, settings: AppSettings) -> None:
        """Prepare one.

        Args:
            folder: for its log; one that is started again goes on in it.
            settings: those of the workers whose dead letters it settles.
        """
        folder.mkdir(exist_ok=True)
        self.log = folder / "reaper.log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """None of it before `launch`."""
        assert self._process is not None, "the reaper was not started"
        return self._process

    @property
    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    def launch(self) -> "ReaperProcess":
        """Start it without waiting."""
        command = [sys.executable, "-m", "async_celery.worker.reaper", "-l", "INFO"]
        command += ["-A", "tests.integration.worker.tasks_app:app"]
        env = {**os.environ, VARIABLE: self._settings.to_text()}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(command, cwd=PROJECT, env=env, stdout=output, stderr=output)
        return self

    def start(self) -> "ReaperProcess":
        """Start it, and wait until it settles dead letters."""
        begin = len(self.text) if self.log.exists() else 0
        self.launch()

        def ready() -> bool:
            assert self.process.poll() is None, f"the reaper did not start:\n{self.text}"
            return "The reaper is ready." in self.text[begin:]

        wait_until(ready, _START_DEADLINE, what="the reaper's start")
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Send it a signal; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def close(self) -> None:
        """Kill it, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "ReaperProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()
