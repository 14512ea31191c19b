"""A task's timeline: what happened to it when, and how long each step took.

How it works: three witnesses, each by its own clock. The API noted when it accepted the task, when the broker
confirmed it and when a client was first told its end (`journal.py`); the worker stored when the message was
published, received, started and finished, for the last run; `stored` is the date of the stored result. What
nobody knows (yet) is left out. Steps stand in their order of principle: the milliseconds of one may be negative
where two clocks differ, or where a worker was faster than the broker's confirm.

What belongs here: the timeline's model and how it is put together.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field

from app.celery.instants import Instant
from async_celery import TaskState, TaskStatus


class Step(StrEnum):
    """What happens to a task, in this order."""

    ACCEPTED = "accepted"
    PUBLISHED = "published"
    CONFIRMED = "confirmed"
    RECEIVED = "received"
    STARTED = "started"
    FINISHED = "finished"
    STORED = "stored"
    DELIVERED = "delivered"


class TimelineStep(BaseModel):
    """One step."""

    step: Step
    at: Instant
    milliseconds: float | None = Field(description="since the step before it; null for the first one")


class Timeline(BaseModel):
    """What happened when: to a task, or to a workflow as a whole and to each of its tasks."""

    id: UUID
    name: str | None
    status: TaskState
    steps: list[TimelineStep] = Field(description="those that are known")
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
            children=children,
        )


def _times(status: TaskStatus, children: Sequence[Timeline]) -> dict[Step, datetime | None]:
    run = status.timeline
    times: dict[Step, datetime | None] = {
        Step.PUBLISHED: run.published_at,
        Step.RECEIVED: run.received_at,
        Step.STARTED: run.started_at,
        Step.FINISHED: run.finished_at,
    }
    if children:
        # A workflow is in a step from when its first task is, and has finished with its last one.
        for step in (Step.PUBLISHED, Step.RECEIVED, Step.STARTED):
            times[step] = min(_of(children, step), default=None)
        if status.state.is_final:
            times[Step.FINISHED] = max(_of(children, Step.FINISHED), default=None)
    times[Step.STORED] = status.finished_at
    return times


def _of(children: Iterable[Timeline], wanted: Step) -> Iterable[datetime]:
    return (step.at for child in children for step in child.steps if step.step is wanted)


def _steps(times: Mapping[Step, datetime | None]) -> list[TimelineStep]:
    steps: list[TimelineStep] = []
    for step in Step:
        if (at := times.get(step)) is not None:
            took = None if not steps else round((at - steps[-1].at).total_seconds() * 1000, 3)
            steps.append(TimelineStep(step=step, at=at, milliseconds=took))
    return steps
