"""The lab: what a turn has at hand, servers and contenders together.

What belongs here: the few calls in which rows are written.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stack.bench.broker import Broker, name_of
from stack.bench.contenders import Contender, Process, Running
from stack.bench.database import Database
from stack.bench.store import Store
from stack.instance import Instance

_POLL = 0.05  # s
_PATIENCE = 90.0  # s for one answer; every command is bounded far below it


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The servers, and the way to run contenders against them."""

    instance: Instance
    broker: Broker
    store: Store
    database: Database
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def queue(self, queue_type: str = "classic", *, declared: bool = True, consumed: bool = False) -> str:
        """Return the name of a queue that no one has used; frameworks with arguments of their own declare it.

        Args:
            queue_type: see `broker.name_of`.
            declared: whether it is made here.
            consumed: whether a worker is to consume it.
        """
        name = name_of(queue_type, next(self._numbers), consumed=consumed)
        if declared:
            self.broker.declare(name, queue_type)
        return name

    def start(self, contender: Contender, row: str, **options: Any) -> Running:
        """Start a contender's program on a row."""
        addresses = {"broker": self.broker.url, "backend": self.store.url}
        return Running(contender, {"row": row, **addresses, **options}, self.instance)

    def ask(self, contender: Contender, row: str, **options: Any) -> dict[str, Any]:
        """Run a contender's program on a row; return its answer."""
        with self.start(contender, row, **options) as running:
            return running.answer(_PATIENCE)

    def wait(self, what: Callable[[], bool], running: Process, *, timeout: float = 60.0) -> None:
        """Wait until something has happened that a process brings about.

        Raises:
            ContenderError: The program ended, or `timeout` seconds have passed.
        """
        deadline = time.monotonic() + timeout
        while not what():
            if running.has_ended:
                raise running.error("ended")
            if time.monotonic() > deadline:
                raise running.error(f"was not ready after {timeout:.0f} s")
            time.sleep(_POLL)
