"""The oracle of every fault test: who ran, how often, and whether that is what was promised.

How it works: the test logs the ids that were accepted; each run appends a line, `id attempt pid`, to a file
opened with O_APPEND, so that lines of several processes never mix and none is lost with its process. In the end
the two are compared: nothing accepted is lost, and nothing ran more often than the fault explains.

What belongs here: keeping the log, and the comparison. Faults are made in the tests. It imports nothing of the
library: worker processes of the tests use it too.
"""

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One run that began: `attempt` as the task counts them, in the process `pid`."""

    task_id: str
    attempt: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the accepted tasks.

    Attributes:
        accepted: how many there were.
        lost: accepted, never run, and not failed explicitly.
        duplicated: runs beyond each task's first.
        allowed: how many such runs the fault explains.
        recovered: tasks that ran again and so outlived the fault.
        unexpected: ids that ran and were never accepted.
    """

    accepted: int
    lost: frozenset[str]
    duplicated: int
    allowed: int
    recovered: int
    unexpected: frozenset[str]

    @property
    def good(self) -> bool:
        """Whether the promises were kept."""
        return not self.lost and not self.unexpected and self.duplicated <= self.allowed

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, lost {len(self.lost)}, duplicated {self.duplicated} "
            f"(allowed {self.allowed}), recovered {self.recovered}, unexpected {len(self.unexpected)}"
        )


class Oracle:
    """The log at `path`, which tasks write and the test judges."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def note(self, task_id: str, attempt: int = 1) -> None:
        """Write down that a run begins in this process."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{task_id} {attempt} {os.getpid()}\n".encode())
        finally:
            os.close(descriptor)

    def executions(self, task_id: str | None = None) -> list[Execution]:
        """Return the runs in the order in which they began: all, or those of one task."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        runs = (line.split() for line in lines)
        return [
            Execution(task_id=id_, attempt=int(attempt), pid=int(pid))
            for id_, attempt, pid in runs
            if task_id in (None, id_)
        ]

    def verdict(
        self, accepted: Collection[str], explicit_failures: Collection[str] = (), *, allowed_extra: int = 0
    ) -> Verdict:
        """Compare, and print what came of it.

        Args:
            accepted: ids of the tasks that the broker took.
            explicit_failures: ids of those that ended without a run, and said so (FAILURE, REVOKED, a 503).
            allowed_extra: runs beyond each task's first that the injected faults explain, all together.
        """
        runs = Counter(run.task_id for run in self.executions())
        verdict = Verdict(
            accepted=len(accepted),
            lost=frozenset(accepted) - runs.keys() - frozenset(explicit_failures),
            duplicated=sum(count - 1 for count in runs.values()),
            allowed=allowed_extra,
            recovered=sum(count > 1 for count in runs.values()),
            unexpected=frozenset(runs.keys() - frozenset(accepted)),
        )
        print(f"oracle: {verdict}")  # noqa: T201 (what every fault test has to tell)
        return verdict
