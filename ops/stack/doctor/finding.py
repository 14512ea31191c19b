"""What a check looks at and what it returns.

What belongs here: the words that checks are written in, without a check.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import psutil

from stack.instance import Instance
from stack.supervision import ProgramState


class Level(Enum):
    """How bad a finding is: only a problem keeps `up` from working."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found, in one line, and what to do about it."""

    level: Level
    text: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What all checks look at.

    `instance` has the settings that `up` would use. `programs` is what the supervisor says, None when the stack
    is down; `processes` are the instance's, whoever started them. `broken` are the findings about settings and
    supervisor that were made on the way.
    """

    instance: Instance
    programs: Mapping[str, ProgramState] | None
    processes: Sequence[psutil.Process]
    broken: Mapping[str, Finding]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report. `exit_code` is the command's when this check finds a problem."""

    name: str
    look: Callable[[Situation], Finding]
    exit_code: int = 3


def ok(text: str) -> Finding:
    """Return that all is well."""
    return Finding(level=Level.OK, text=text)


def warning(text: str, fix: str) -> Finding:
    """Return what is not as it should be, although `up` works."""
    return Finding(level=Level.WARNING, text=text, fix=fix)


def problem(text: str, fix: str) -> Finding:
    """Return what keeps `up` from working."""
    return Finding(level=Level.PROBLEM, text=text, fix=fix)
