"""Where a task's time went: how long it was in each stage of its life, and what no stage explains.

How it works: a stage is a span of time between two steps of a timeline (`timeline.py`). A task is in one stage at
a time; of a workflow's tasks many are in different ones at once. So each moment from the first known one to the
last belongs to one stage, the first in the order of `Stage` that anything is in: a workflow runs while any task
of it runs, and is in a queue while none runs and one waits. What is left is in no stage: where two clocks differ,
where nobody noted a step, or between a task's end and the sending of the next one.

The same stages are what the metrics measure, of all tasks: docs/reference/metrics.md says how they compare.

What belongs here: stages, and adding them up.
"""

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Self

from pydantic import BaseModel, Field


class Stage(StrEnum):
    """What a task is in. Of several at a time, the first of these is what a workflow is in."""

    RUN = "run"
    STORE = "store"
    QUEUE = "queue"
    DELAY = "delay"
    BEFORE = "before"
    DELIVERY = "delivery"


class Span(NamedTuple):
    """A stage, from when to when. It is empty where the clocks of two machines have it end before it begins."""

    stage: Stage
    begin: datetime
    end: datetime


class Durations(BaseModel):
    """How long, in ms: `before` to `delivery`, and `unexplained`, add up to `total`. Null is not known (yet)."""

    total: float = Field(description="from the first known step to the last one")
    before: float | None = Field(
        description="accepted to published; of a task that was retried, with its earlier runs and their queues"
    )
    delay: float | None = Field(description="published to due: a countdown, or a retry's pause")
    queue: float | None = Field(description="published, or due, to started")
    run: float | None = Field(description="started to finished")
    store: float | None = Field(description="finished to stored")
    delivery: float | None = Field(description="stored to delivered: until a client was told")
    unexplained: float = Field(description="in none of these")
    publish: float | None = Field(
        description="published to confirmed, while the message is in its queue already: no part of the sum"
    )

    @classmethod
    def of(cls, spans: Collection[Span], *, total: timedelta, publish: timedelta | None) -> Self:
        """Add up.

        Args:
            spans: the stages of a task, or of all tasks of a workflow.
            total: from the first moment to the last; no span reaches beyond them.
            publish: how long the broker took to confirm; None if that is not known.
        """
        shares = _shares(spans)
        explained = sum(shares.values(), timedelta())
        return cls(
            total=milliseconds(total),
            unexplained=milliseconds(total - explained),
            publish=None if publish is None else milliseconds(publish),
            **{stage: None if stage not in shares else milliseconds(shares[stage]) for stage in Stage},
        )


def _shares(spans: Collection[Span]) -> dict[Stage, timedelta]:
    """Return of each stage that there is how long it was the first of those that anything was in."""
    begins = ((span.begin, 1, span.stage) for span in spans if span.begin < span.end)
    ends = ((span.end, -1, span.stage) for span in spans if span.begin < span.end)
    shares = dict.fromkeys((span.stage for span in spans), timedelta())
    going_on: Counter[Stage] = Counter()
    since = datetime.min
    for at, change, changed in sorted((*begins, *ends)):
        stage = next((stage for stage in Stage if going_on[stage]), None)
        if stage is not None:
            shares[stage] += at - since
        going_on[changed] += change
        since = at
    return shares


def milliseconds(time: timedelta) -> float:
    """Return it in ms, to the microsecond."""
    return round(time.total_seconds() * 1000, 3)
