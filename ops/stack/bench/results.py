"""What was measured, as values: one measurement per contender, case and round, kept as JSON.

How it works: a row's file holds every single measurement, with the machine and the versions that it was made on;
tables, verdicts and plots are made from the files, never from memory, so that one row can be measured anew.

What belongs here: values, their files, and the statistics over rounds.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one turn found: `values` by metric, whose names carry their unit; or why there are none."""

    contender: str
    case: str
    round: int
    values: Mapping[str, float]
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """When, where and with what a row was measured. `load` is the machine's load average before it, per core."""

    date: str
    mode: str
    machine: Mapping[str, str]
    servers: Mapping[str, str]
    versions: Mapping[str, str]
    load: float


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """A row's measurements and their surroundings."""

    row: str
    surroundings: Surroundings
    measurements: Sequence[Measurement]

    def write(self, folder: Path) -> Path:
        """Write the row's file, ROW.json; return its path."""
        path = folder / f"{self.row}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> "RowResult":
        """Read what `write` wrote."""
        data = json.loads(path.read_text())
        return cls(
            row=data["row"],
            surroundings=Surroundings(**data["surroundings"]),
            measurements=[Measurement(**one) for one in data["measurements"]],
        )

    def rounds(self, contender: str, case: str, metric: str) -> dict[int, float]:
        """Return a metric by round, of the rounds in which it was measured."""
        return {
            one.round: one.values[metric]
            for one in self.measurements
            if (one.contender, one.case) == (contender, case) and metric in one.values
        }

    def median(self, contender: str, case: str, metric: str) -> float | None:
        """Return the median over the rounds; None when it was never measured."""
        values = self.rounds(contender, case, metric).values()
        return statistics.median(values) if values else None

    def ratio(self, contender: str, other: str, case: str, metric: str, other_case: str) -> float | None:
        """Return the median over the rounds of `contender` / `other`: drift that hits both of a round cancels."""
        ours, theirs = self.rounds(contender, case, metric), self.rounds(other, other_case, metric)
        ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        return statistics.median(ratios) if ratios else None

    def failures(self) -> list[Measurement]:
        """Return the turns that failed."""
        return [one for one in self.measurements if one.failure]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie: the nearest rank.

    Raises:
        ValueError: There are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values: nothing was measured")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
