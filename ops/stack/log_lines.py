"""A log line as people read it: its service's name in front, its level in colour, a document as a text.

How it works: with LOG_FORMAT=json a line is a document for Elasticsearch. A terminal shows what the console
format would have written; a file or a pipe gets the line as it is, for `jq`.

What belongs here: how lines look. Which lines are shown is `logs.py`'s business.
"""

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from stack.records import time_of

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")
_LEVEL = re.compile(r"^[\d-]{10} [\d:.,]+ (\w+) ")
_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}


class Printer:
    """Prints lines with their program's name in front, each program in a colour of its own."""

    def __init__(self, names: Sequence[str], console: Console) -> None:
        self._console = console
        self._width = max(map(len, names))
        self._colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False))

    def show(self, name: str, line: str) -> None:
        """Print one line."""
        front = (f"{name:<{self._width}} | ", self._colours[name])
        for text in readable(line) if self._console.is_terminal else [line]:
            level = _LEVEL.match(text)
            style = _STYLES.get(level[1], "") if level else ""
            self._console.print(Text.assemble(front, (text, style)), soft_wrap=True)


def readable(line: str) -> list[str]:
    """Return a document's line as the console format has it, its traceback on lines below; others as they are."""
    document = _document(line)
    if document is None:
        return [line]
    words = (
        time_of(line),
        f"{str(document.get('log.level', '')).upper():<7}",
        document.get("process.name"),
        document.get("log.logger"),
        f"[{document.get('http.request.id', '-')}]",
        document.get("message"),
    )
    below = str(document.get("error.stack_trace", ""))
    return [*" ".join(str(word) for word in words if word is not None).splitlines(), *below.splitlines()]


def _document(line: str) -> dict[str, Any] | None:
    if not line.startswith("{") or time_of(line) is None:
        return None
    try:
        document: dict[str, Any] = json.loads(line)
    except ValueError:  # its beginning alone: the process was killed meanwhile
        return None
    return document
