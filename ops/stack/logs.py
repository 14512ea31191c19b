"""Logs: the last lines of services, and following them, each line with its service's name in front.

How it works: each program's output is a file that the supervisor writes and turns over. Programs write times in
different formats, so the last lines are shown service by service; lines that arrive while following are shown as
they come.

What belongs here: showing log files.
"""

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.text import Text

from stack.instance import Instance
from stack.processes import tail
from stack.service import Service

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")
_POLL = 0.2  # s


def show(instance: Instance, chosen: Sequence[Service], *, lines: int, follow: bool, console: Console) -> None:
    """Print the last `lines` lines of each service; with `follow`, go on until Ctrl-C."""
    names = [program.name for service in chosen for program in service.programs]
    width = max(map(len, names))
    colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False))

    def print_line(name: str, line: str) -> None:
        console.print(Text.assemble((f"{name:<{width}} | ", colours[name]), line), soft_wrap=True)

    with ExitStack() as opened:
        followed = [
            (name, opened.enter_context(closing(_Followed(instance.log(name))))) for name in names if follow
        ]
        for name in names:
            for line in tail(instance.log(name), lines):
                print_line(name, line)
        while followed:
            for name, log in followed:
                for line in log.new_lines():
                    print_line(name, line)
            time.sleep(_POLL)


class _Followed:
    """A log file from its present end on, through turn-overs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._open(os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def new_lines(self) -> Iterator[str]:
        """Return the whole lines that were added since the last call."""
        if self._file is None:
            self._open(os.SEEK_SET)
        if self._file is None:
            return
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
        if self._was_replaced():
            self.close()
            self._open(os.SEEK_SET)

    def _open(self, whence: int) -> None:
        try:
            self._file = self._path.open("rb")
            self._file.seek(0, whence)
        except FileNotFoundError:  # the program has not started yet
            self._file = None

    def _was_replaced(self) -> bool:
        if self._file is None:
            return False
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return True
