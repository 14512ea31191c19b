"""Log records: what one message wrote, and which ids it carries.

How it works: a line that begins with a time begins a record; the lines after it (a traceback) belong to it. Lines
before the first time, and those of programs that write their times otherwise, stand for themselves. A record
carries a request's id in brackets, where the API and the worker write it, and a task's id anywhere: in the
worker's `name[ID]`, or in a path of the API. With LOG_FORMAT=json, each line of theirs is a record, and the
request's id a field of it. Times compare as text: all programs write local time, year first, but for
those, whose time is UTC and is translated.

What belongs here: reading the text of logs. Files are `logs.py`'s business.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from stack.errors import UsageError

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.,]\d+")
_DOCUMENT = re.compile(r'\{"@timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z)"')


@dataclass(frozen=True, kw_only=True)
class Record:
    """The lines of one message; `time` is as it was written, empty where there is none."""

    program: str
    time: str
    lines: tuple[str, ...]


class Wanted:
    """Which records are wanted: those that carry every id that is given."""

    def __init__(self, *, request: str | None, task: str | None) -> None:
        """Take the ids.

        Raises:
            UsageError: An id is empty.
        """
        if "" in (request, task):
            raise UsageError("the id is empty", hint="./stack logs --request ID, or ./stack logs --task ID")
        self._patterns = []
        if request is not None:
            id_ = re.escape(request)
            self._patterns.append(re.compile(rf' \[{id_}\] |"(?:http\.request|trace)\.id":"{id_}"'))
        if task is not None:
            self._patterns.append(re.compile(rf"(?<![\w-]){re.escape(task)}(?![\w-])"))
        ids = (("request", request), ("task", task))
        self.description = " and ".join(f"{kind} {text}" for kind, text in ids if text is not None)

    def is_in(self, lines: Iterable[str]) -> bool:
        """Say whether the lines carry every id."""
        text = "\n".join(lines)
        return all(pattern.search(text) for pattern in self._patterns)


class Wanting:
    """One program's lines as they come: picks those of wanted records, continuation lines included."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._is_wanted = False
        self._is_whole = False

    def takes(self, line: str) -> bool:
        """Say whether the next line belongs to a wanted record."""
        if self._is_whole or time_of(line) is not None:
            self._is_wanted = False
        self._is_whole = _is_document(line)
        self._is_wanted = self._is_wanted or self._wanted.is_in([line])
        return self._is_wanted


def split(program: str, lines: Iterable[str]) -> Iterator[Record]:
    """Return a program's lines as records, in their order."""
    time, gathered = "", list[str]()
    for line in lines:
        begins = time_of(line)
        if gathered and (begins or not time or _is_document(gathered[0])):
            yield Record(program=program, time=time, lines=tuple(gathered))
            gathered = []
        if begins:
            time = begins
        gathered.append(line)
    if gathered:
        yield Record(program=program, time=time, lines=tuple(gathered))


def _is_document(line: str) -> bool:
    """Say whether the line is a record of its own, whatever comes after it."""
    return _DOCUMENT.match(line) is not None


def time_of(line: str) -> str | None:
    """Return the time that a line begins with, as local time."""
    if found := _TIME.match(line):
        return found[0].replace(",", ".")
    if found := _DOCUMENT.match(line):
        instant = datetime.fromisoformat(found[1]).astimezone()
        return instant.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")
    return None
