"""Exponential backoff: how long to pause between two looks at the same thing.

What belongs here: the sequence of pauses. Who sleeps, and until when, is the caller's business.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Pauses that grow from `first` by `factor` up to `limit`.

    `jitter` is the share of each pause that is random: 0 none, 1 anything from nothing to the whole pause. It
    keeps many waiters that began together from asking together.
    """

    first: float = 0.01  # s
    factor: float = 1.5
    limit: float = 0.5  # s
    jitter: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what would never pause, or never stop growing.

        Raises:
            ValueError: a parameter is out of its range.
        """
        if not (0 < self.first <= self.limit and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ValueError(f"need 0 < first <= limit, factor >= 1, 0 <= jitter <= 1; got {self}")

    def pauses(self) -> Iterator[float]:
        """Yield pauses in s, for ever; each lies within [(1 - jitter) * p, p] for p growing up to `limit`."""
        pause = self.first
        while True:
            yield pause * (1 - self.jitter * random.random())  # noqa: S311 (spreading load, not a secret)
            pause = min(pause * self.factor, self.limit)
