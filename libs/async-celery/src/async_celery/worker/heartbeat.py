"""Heartbeat: a file whose age says whether a worker takes tasks.

How it works: a part of Celery's consumer. While the consumer is connected, a timer of its event loop touches the
file. So the file gets old when the loop hangs, when the process has died, and also while the broker is away: who
asks whether this worker takes tasks learns the truth. A supervisor that restarts for it should wait longer than
an outage takes, since a restart does not bring a broker back. Tasks that run for long do not matter: they run in
other processes. (With the pools `solo` and `threads` they do, or the timer has a thread of its own.)

What belongs here: the file.
"""

from typing import Any

from celery import bootsteps

from async_celery.worker.policy import policy_of


class Heartbeat(bootsteps.StartStopStep):
    """Touches `Policy.heartbeat_file` every `Policy.heartbeat_interval`."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Touch it now, and from now on."""
        policy = policy_of(consumer.app)
        if (file := policy.heartbeat_file) is not None:
            file.touch()
            self._timer = consumer.timer.call_repeatedly(policy.heartbeat_interval, file.touch)

    def stop(self, _: Any) -> None:
        """Leave it alone: connected no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
