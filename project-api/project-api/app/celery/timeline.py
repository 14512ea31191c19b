"""A task's timeline: what happened to it when, how long each step took, and where the time went in all.

How it works: four witnesses, each by its own clock. The API noted when it accepted the task, when the broker
confirmed it and when a client was first told its end (`journal.py`); the worker stored when the message was
published, due, received, started and finished, for the last run; Redis says when it stored the result. What
nobody knows (yet) is left out. Steps stand in their order of principle. One may have come before its
predecessor: where two clocks differ, or where a worker was faster than the broker's confirm; then it took 0. That
clocks differ is said apart from that (`clock_difference`), by the steps that cannot have come in another order.
Durations are of the stages between them (`stages.py`).

What belongs here: the timeline's model and how it is put together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import chain, combinations
from types import MappingProxyType
from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field

from app.celery.instants import Instant
from app.celery.stages import Durations, Span, Stage, milliseconds
from async_celery import TaskState, TaskStatus


class Step(StrEnum):
    """What happens to a task, in this order."""

    ACCEPTED = "accepted"
    PUBLISHED = "published"
    CONFIRMED = "confirmed"
    DUE = "due"
    RECEIVED = "received"
    STARTED = "started"
    FINISHED = "finished"
    STORED = "stored"
    DELIVERED = "delivered"


_STAGES = MappingProxyType(
    {
        Stage.BEFORE: (Step.ACCEPTED, Step.PUBLISHED),
        Stage.DELAY: (Step.PUBLISHED, Step.DUE),
        Stage.QUEUE: (Step.PUBLISHED, Step.STARTED),
        Stage.RUN: (Step.STARTED, Step.FINISHED),
        Stage.STORE: (Step.FINISHED, Step.STORED),
        Stage.DELIVERY: (Step.STORED, Step.DELIVERED),
    }
)
"""Between which steps each stage lies; what is due later than it was published is in its queue from then on."""

_OF_THE_WHOLE = frozenset({Stage.BEFORE, Stage.DELIVERY})
"""A workflow's own stages; in the others are its tasks."""

_IN_TURN = (
    Step.ACCEPTED,
    Step.PUBLISHED,
    Step.RECEIVED,
    Step.STARTED,
    Step.FINISHED,
    Step.STORED,
    Step.DELIVERED,
)
"""None of these can come before an earlier one. A confirm may be later than the run, and a message be received,
or published, after it was due."""


class TimelineStep(BaseModel):
    """One step."""

    step: Step
    at: Instant
    milliseconds: float | None = Field(
        description="since the step before it; 0 if it came before that one, null for the first one"
    )


class Timeline(BaseModel):
    """What happened when: to a task, or to a workflow as a whole and to each of its tasks."""

    id: UUID
    name: str | None
    status: TaskState
    steps: list[TimelineStep] = Field(description="those that are known")
    durations: Durations = Field(description="where the time went; of a workflow, together with its tasks")
    clock_difference: float | None = Field(
        description="in ms, by how much the clocks of two machines that timed the task differ at least, as seen "
        "by steps that stand before those they came after; durations between these two are too short or too "
        "long. Null where nothing shows it"
    )
    children: list["Timeline"] = Field(description="a workflow's tasks, in their order")

    @classmethod
    def from_status(cls, status: TaskStatus, noted: Mapping[str, float] | None = None) -> Self:
        """Put the timeline together.

        Args:
            status: what the workers stored.
            noted: what the API noted, in s since 1970; None for a workflow's members, which it does not see.
        """
        children = [cls.from_status(child) for child in status.children]
        times = _times(status, children)
        if noted is not None:
            times |= {step: datetime.fromtimestamp(noted[step], UTC) for step in Step if step in noted}
            # The id itself says it, too, but only in whole seconds.
            times.setdefault(Step.ACCEPTED, status.accepted_at)
        return cls(
            id=UUID(status.id),
            name=status.name,
            status=status.state,
            steps=_steps(times),
            durations=_durations(times, children),
            clock_difference=_clock_difference(times, children),
            children=children,
        )


def _times(status: TaskStatus, children: Sequence[Timeline]) -> dict[Step, datetime | None]:
    run = status.timeline
    times: dict[Step, datetime | None] = {
        Step.PUBLISHED: run.published_at,
        Step.DUE: run.due_at,
        Step.RECEIVED: run.received_at,
        Step.STARTED: run.started_at,
        Step.FINISHED: run.finished_at,
        # Who is not our worker says only when it had finished.
        Step.STORED: run.stored_at or status.finished_at,
    }
    if children:
        # A workflow is in a step from when its first task is, and has finished with its last one.
        for step in (Step.PUBLISHED, Step.RECEIVED, Step.STARTED):
            times[step] = min(_of(children, step), default=None)
        if status.state.is_final:
            for step in (Step.FINISHED, Step.STORED):
                times[step] = max(_of(children, step), default=None)
    return times


def _of(children: Iterable[Timeline], wanted: Step) -> Iterable[datetime]:
    return (step.at for child in children for step in child.steps if step.step is wanted)


def _steps(times: Mapping[Step, datetime | None]) -> list[TimelineStep]:
    steps: list[TimelineStep] = []
    for step in Step:
        if (at := times.get(step)) is not None:
            took = None if not steps else max(0, milliseconds(at - steps[-1].at))
            steps.append(TimelineStep(step=step, at=at, milliseconds=took))
    return steps


def _clock_difference(times: Mapping[Step, datetime | None], children: Sequence[Timeline]) -> float | None:
    # A workflow's steps after these are of different tasks, and it has failed before its last task ends.
    in_turn = _IN_TURN[:2] if children else _IN_TURN
    known = {step: at for step in in_turn if (at := times.get(step)) is not None}
    if Step.DELIVERED in known and known[Step.DELIVERED] < known.get(
        Step.PUBLISHED, datetime.min.replace(tzinfo=UTC)
    ):
        # A replay: what was told is the end of an earlier run.
        del known[Step.DELIVERED]
    differences = [milliseconds(earlier - later) for earlier, later in combinations(known.values(), 2)]
    differences += [child.clock_difference for child in children if child.clock_difference is not None]
    return max((each for each in differences if each > 0), default=None)


def _durations(times: Mapping[Step, datetime | None], children: Sequence[Timeline]) -> Durations:
    known = {step: at for step, at in times.items() if at is not None}
    spans = list(_spans(known, children))
    moments = list(chain(known.values(), *((span.begin, span.end) for span in spans)))
    publish = None
    if Step.PUBLISHED in known and Step.CONFIRMED in known:
        publish = known[Step.CONFIRMED] - known[Step.PUBLISHED]
    return Durations.of(
        spans,
        total=max(moments) - min(moments) if moments else timedelta(),
        # What was published after the confirm is a retry.
        publish=publish if publish is not None and publish >= timedelta() else None,
    )


def _spans(known: Mapping[Step, datetime], children: Sequence[Timeline]) -> Iterator[Span]:
    for stage, (first, last) in _STAGES.items():
        if first not in known or last not in known or (children and stage not in _OF_THE_WHOLE):
            continue
        begin = known[first]
        if stage is Stage.QUEUE and Step.DUE in known:
            begin = max(begin, known[Step.DUE])
        yield Span(stage, begin, known[last])
    for child in children:
        yield from _spans({step.step: step.at for step in child.steps}, child.children)
