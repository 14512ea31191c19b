"""A pool of processes on an event loop, for tests: tasks are given to it, and the loop is turned by hand."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from kombu.asynchronous import Hub

from async_celery.worker.pool import AsynPool

DEADLINE = 30.0  # s


class Running:
    """A pool, and the event loop that it is on."""

    def __init__(self, processes: int, **options: Any) -> None:
        self.hub = Hub()
        made: Any = AsynPool
        self.pool = made(
            processes, threads=False, synack=False, lost_worker_timeout=0.0, enable_timeouts=True, **options
        )
        self.pool.register_with_event_loop(self.hub)
        self.hub.call_repeatedly(0.02, lambda: None)  # no turn waits for long
        self._loop = self.hub.create_loop()
        self.until(lambda: len(self.pool._all_inqueues) == processes)

    def close(self) -> None:
        """End it at once: asked to, each process takes half a second, and what it may still read as long."""
        for process in self.pool._pool:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        self.pool._pool.clear()
        self.pool.terminate()
        self.pool.join()
        self.hub.close()

    def until(self, what: Callable[[], bool]) -> None:
        """Turn the loop until something is so."""
        deadline = time.monotonic() + DEADLINE
        while not what():
            assert time.monotonic() < deadline
            next(self._loop)
            self.pool.maintain_pool()

    def turn(self) -> None:
        self.hub.call_soon(lambda: None)
        next(self._loop)

    def give(self, function: Callable[..., Any], *args: Any, **limits: float) -> "Given":
        return Given(self, function, args, limits)

    def turn_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)


class Given:
    """A task that the pool was given."""

    def __init__(
        self, running: Running, function: Callable[..., Any], args: tuple[Any, ...], limits: dict[str, float]
    ) -> None:
        self.result: Any = None
        self.accepted_by: list[int] = []
        self._running = running
        self.job = running.pool.apply_async(
            function,
            args,
            callback=self._ends,
            error_callback=self._ends,
            accept_callback=lambda pid, _: self.accepted_by.append(pid),
            **limits,
        )

    def _ends(self, result: Any) -> None:
        self.result = (result,)

    def wait(self) -> Any:
        self._running.until(lambda: self.result is not None)
        return self.result[0]
