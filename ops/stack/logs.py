"""Logs: the last lines of services, and following them, each line with its service's name in front.

How it works: each program's output is a file that the supervisor writes and turns over, if need be in the middle
of a line. Programs write times in different formats, so the last lines are shown service by service; lines that
arrive while following are shown as they come. Lines that carry a wanted id are looked for in the whole files, the
turned-over ones included, and shown in the order of their times: one request's way through all services.

What belongs here: log files, and which of their lines are shown. What they mean is in `records.py`, how they look
in `log_lines.py`.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

from stack import records
from stack.errors import StackError
from stack.instance import Instance
from stack.log_lines import Printer
from stack.processes import tail
from stack.records import Wanted, Wanting
from stack.service import Service

_POLL = 0.2  # s


def show(instance: Instance, chosen: Sequence[Service], *, lines: int, follow: bool, console: Console) -> None:
    """Print the last `lines` lines of each service; with `follow`, go on until Ctrl-C."""
    names = _programs(chosen)
    printer = Printer(names, console)
    with ExitStack() as opened:
        followed = [
            (name, opened.enter_context(closing(_Followed(instance.log(name), os.SEEK_END))))
            for name in names
            if follow
        ]
        for name in names:
            for line in tail(instance.log(name), lines):
                printer.show(name, line)
        while followed:
            for name, log in followed:
                for line in log.new_lines():
                    printer.show(name, line)
            time.sleep(_POLL)


def find(
    instance: Instance, chosen: Sequence[Service], wanted: Wanted, *, follow: bool, console: Console
) -> None:
    """Print everything of the services that carries the wanted ids, by time; with `follow`, go on until Ctrl-C.

    Raises:
        StackError: There is nothing, and it is not followed.
    """
    names = _programs(chosen)
    printer = Printer(names, console)
    with ExitStack() as opened:
        followed = {
            name: opened.enter_context(closing(_Followed(instance.log(name), os.SEEK_SET))) for name in names
        }
        found = [
            record
            for name, log in followed.items()
            for record in records.split(name, log.new_lines())
            if wanted.is_in(record.lines)
        ]
        for record in sorted(found, key=lambda record: record.time):
            for line in record.lines:
                printer.show(record.program, line)
        if not found and not follow:
            raise _nothing(instance, chosen, wanted)
        wanting = {name: Wanting(wanted) for name in names}
        while follow:
            for name, log in followed.items():
                for line in log.new_lines():
                    if wanting[name].takes(line):
                        printer.show(name, line)
            time.sleep(_POLL)


def _programs(chosen: Sequence[Service]) -> list[str]:
    return [program.name for service in chosen for program in service.programs]


def _turned_over(path: Path) -> list[Path]:
    """Return a log's earlier files, the oldest first: `.2` was turned over before `.1`."""
    numbered = (place for place in path.parent.glob(f"{path.name}.*") if place.suffix[1:].isdecimal())
    return sorted(numbered, key=lambda place: int(place.suffix[1:]), reverse=True)


def _nothing(instance: Instance, chosen: Sequence[Service], wanted: Wanted) -> StackError:
    where = ", ".join(service.name for service in chosen)
    return StackError(
        f"no line of {where} carries {wanted.description}",
        hint="A request's id is in its answer's X-Request-ID, a task's id in the answer to what sent it.\n"
        f"Old lines go: {instance.log('').parent} keeps 10 to 20 MB of each program.",
    )


class _Followed:
    """A log from its present end on (`os.SEEK_END`), or all of it, turned-over files first (`os.SEEK_SET`)."""

    def __init__(self, path: Path, whence: int) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._open(whence)
        self._earlier = _turned_over(path) if whence == os.SEEK_SET else []

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def new_lines(self) -> Iterator[str]:
        """Return the whole lines that were added since the last call."""
        while self._earlier:
            yield from self._whole(self._earlier.pop(0).read_bytes())
        if self._file is None:
            self._open(os.SEEK_SET)
        if self._file is None:
            return
        yield from self._whole(self._file.read())
        if self._was_replaced():
            self.close()
            self._open(os.SEEK_SET)

    def _whole(self, more: bytes) -> Iterator[str]:
        """Return the whole lines of what was left over and of what comes now."""
        *whole, self._rest = (self._rest + more).split(b"\n")
        return (line.decode(errors="replace") for line in whole)

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
