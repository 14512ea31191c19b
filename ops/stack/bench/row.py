"""What a row is: the words in which the modules of `rows/` are written.

How it works: a row is a list of turns, one contender at one thing in one round, ordered so that the contenders
take turns within each round (ABAB...): drift of the machine then hits all of them alike.

What belongs here: values, and taking a turn.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from stack.bench.contenders import Contender, ContenderError
from stack.bench.lab import Lab
from stack.bench.results import Measurement

_Value = TypeVar("_Value")

Standing = Mapping[str, str]
"""What runs during a whole row (workers, servers): queues or ports by name."""

Found = Iterator[tuple[str, dict[str, float]]]
"""What a turn yields: a case, and its values by metric."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured: everything often enough to be sure, or a quick look."""

    is_full: bool

    def pick(self, quick: _Value, full: _Value) -> _Value:
        """Return the value for this scale."""
        return full if self.is_full else quick


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One contender's go: who, at what, in which round, and how."""

    contender: str
    case: str
    round: int
    act: Callable[[Lab, Standing], Found]

    def take(self, lab: Lab, standing: Standing) -> list[Measurement]:
        """Take the turn; a failure is a result, too."""

        def measurement(case: str, values: dict[str, float], failure: str = "") -> Measurement:
            return Measurement(
                contender=self.contender, case=case, round=self.round, values=values, failure=failure
            )

        found: list[Measurement] = []
        try:
            for case, values in self.act(lab, standing):
                found.append(measurement(case, values))
        except (ContenderError, OSError, ValueError) as error:
            found.append(measurement(self.case, {}, str(error)))
        return found


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a row's table: a metric of a case."""

    title: str
    case: str
    metric: str
    digits: int = 0


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a row: its title and its columns; the lines are the contenders."""

    title: str
    columns: tuple[Column, ...]


def _nothing(_: Lab, __: Scale) -> AbstractContextManager[Standing]:
    return nullcontext({})


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the benchmark.

    `conditions` says in plain words what really runs. `contenders` are those whose environments it needs. `plots`
    are the columns, by title of the plot, that are drawn as bars.
    """

    name: str
    title: str
    conditions: str
    contenders: tuple[Contender, ...]
    turns: Callable[[Scale], list[Turn]]
    tables: tuple[Table, ...]
    plots: Mapping[str, Column]
    standing: Callable[[Lab, Scale], AbstractContextManager[Standing]] = _nothing
