"""Heartbeat: a file whose age says whether a worker takes tasks.

How it works: a part of Celery's consumer. While the consumer is connected, a timer of its event loop touches the
file. So the file gets old when the loop hangs, when the process has died, and also while the broker is away: who
asks whether this worker takes tasks learns the truth. A supervisor that restarts for it should wait longer than
an outage takes, since a restart does not bring a broker back. Tasks that run for long do not matter: they run in
other processes. (With the pools `solo` and `threads` they do, or the timer has a thread of its own.)

A file that cannot be touched (its folder is gone, the disk is full) gets old, and costs nothing else.

What belongs here: the file.
"""

import logging
from pathlib import Path
from typing import Any

from celery import bootsteps

from async_celery.worker.policy import policy_of

_logger = logging.getLogger(__name__)


class HeartbeatFile:
    """The file, of a worker or a reaper."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._gets_old = False

    def touch(self) -> None:
        """Touch it; that this fails is logged once until it works again."""
        try:
            self._path.touch()
        except OSError as exc:
            if not self._gets_old:
                _logger.warning("The heartbeat's file gets old although all is well here: %s", exc)
            self._gets_old = True
        else:
            if self._gets_old:
                _logger.info("The heartbeat's file is touched again: %s", self._path)
            self._gets_old = False


class Heartbeat(bootsteps.StartStopStep):
    """Touches `Policy.heartbeat_file` every `Policy.heartbeat_interval`."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None
        path = policy_of(consumer.app).heartbeat_file
        self._file = None if path is None else HeartbeatFile(path)

    def start(self, consumer: Any) -> None:
        """Touch it now, and from now on."""
        if self._file is not None:
            self._file.touch()
            interval = policy_of(consumer.app).heartbeat_interval
            self._timer = consumer.timer.call_repeatedly(interval, self._file.touch)

    def stop(self, _: Any) -> None:
        """Leave it alone: connected no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
