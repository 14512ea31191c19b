"""Progress: one line per service, with its state and the seconds since the command began.

How it works: threads report states to a `Board`. On a terminal the lines change in place; elsewhere (a log, CI)
every new state of a service is printed once.

What belongs here: what the user sees while waiting. No decisions.
"""

import threading
import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_STYLES = {"ready": "green", "started": "green", "done": "green", "stopped": "green", "failed": "red"}
_FINAL = frozenset(_STYLES)
_SHORTEST = " " * 16  # so wide are the names' columns at least


class Board:
    """The lines of one command. Use as a context manager; `report` may be called from any thread."""

    def __init__(self, names: Iterable[str], console: Console) -> None:
        self._console = console
        self._begin = time.monotonic()
        self._lock = threading.Lock()
        self._lines: dict[str, tuple[str, float | None]] = dict.fromkeys(names, ("waiting", None))
        self._width = max(map(len, (_SHORTEST, *self._lines)))
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=8, transient=False)

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._begin

    def report(self, name: str, state: str) -> None:
        """Say what a service is doing now."""
        with self._lock:
            if self._lines.get(name, ("",))[0] == state:
                return
            self._lines[name] = (state, self.elapsed if state in _FINAL else None)
            if not self._console.is_terminal:
                self._console.print(f"{name:<{self._width}} {state:<28} {self.elapsed:6.1f} s", highlight=False)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=self._width)
        table.add_column(min_width=28)
        table.add_column(justify="right")
        for name, (state, ended) in self._lines.items():
            shown = Text(state, style=_STYLES[state]) if state in _FINAL else Spinner("dots", text=state)
            table.add_row(name, shown, f"{self.elapsed if ended is None else ended:.1f} s")
        return table
