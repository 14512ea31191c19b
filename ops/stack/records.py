"""Log records: what one message wrote, and which ids it carries.

How it works: a line that begins with a time begins a record; the lines after it (a traceback) belong to it. Lines
before the first time, and those of programs that write their times otherwise, stand for themselves. A record
carries a request's id in brackets, where the API and the worker write it, and a task's id anywhere: in the
worker's `name[ID]`, or in a path of the API. Times compare as text: all programs write local time, year first.

What belongs here: reading the text of logs. Files are `logs.py`'s business.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stack.errors import UsageError

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.,]\d+")


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
            self._patterns.append(re.compile(rf" \[{re.escape(request)}\] "))
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

    def takes(self, line: str) -> bool:
        """Say whether the next line belongs to a wanted record."""
        if _TIME.match(line):
            self._is_wanted = False
        self._is_wanted = self._is_wanted or self._wanted.is_in([line])
        return self._is_wanted


def split(program: str, lines: Iterable[str]) -> Iterator[Record]:
    """Return a program's lines as records, in their order."""
    time, gathered = "", list[str]()
    for line in lines:
        begins = _TIME.match(line)
        if gathered and (begins or not time):
            yield Record(program=program, time=time, lines=tuple(gathered))
            gathered = []
        if begins:
            time = begins[0].replace(",", ".")
        gathered.append(line)
    if gathered:
        yield Record(program=program, time=time, lines=tuple(gathered))
