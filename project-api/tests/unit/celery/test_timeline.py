"""Timelines, from plain values."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.celery.timeline import Timeline
from async_celery import TaskState, TaskStatus, TaskTimeline

ID = "00000000-0000-4000-8000-000000000000"
START = datetime(2030, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def task(state: TaskState = TaskState.SUCCESS, *, began: float = 1, ended: float | None = 2) -> TaskStatus:
    finished = None if ended is None else at(ended)
    timeline = TaskTimeline(received_at=at(began), started_at=at(began), finished_at=finished)
    return TaskStatus(id=ID, name="add", state=state, timeline=timeline, finished_at=finished, accepted_at=START)


def steps(timeline: Timeline) -> dict[str, float | None]:
    return {step.step: step.milliseconds for step in timeline.steps}


def test_each_step_is_timed_from_the_known_one_before_it() -> None:
    noted = {"accepted": at(0).timestamp(), "confirmed": at(0.25).timestamp(), "delivered": at(2.5).timestamp()}
    assert steps(Timeline.from_status(task(), noted)) == {
        "accepted": None, "confirmed": 250, "received": 750, "started": 0, "finished": 1000, "stored": 0,
        "delivered": 500,
    }  # fmt: skip


def test_stages_are_what_lies_between_the_steps() -> None:
    run = TaskTimeline(published_at=at(0.5), due_at=at(3), received_at=at(3.25), started_at=at(4),
                       finished_at=at(6), stored_at=at(6.25))  # fmt: skip
    whole = TaskStatus(
        id=ID, state=TaskState.SUCCESS, timeline=run, finished_at=at(6), accepted_at=START, attempts=1
    )
    noted = {"accepted": at(0).timestamp(), "confirmed": at(1).timestamp(), "delivered": at(7).timestamp()}
    document = Timeline.from_status(whole, noted)
    assert list(steps(document)) == [
        "accepted", "published", "confirmed", "due", "received", "started", "finished", "stored", "delivered",
    ]  # fmt: skip
    assert document.durations.model_dump() == {
        "total": 7000, "before": 500, "delay": 2500, "queue": 1000, "run": 2000, "store": 250, "delivery": 750,
        "unexplained": 0, "publish": 500,
    }  # fmt: skip


def test_what_is_due_when_it_is_sent_waits_in_its_queue_alone() -> None:
    run = TaskTimeline(published_at=at(2), due_at=at(1), started_at=at(3))
    document = Timeline.from_status(TaskStatus(id=ID, state=TaskState.STARTED, timeline=run))
    assert (document.durations.delay, document.durations.queue) == (0, 1000)


def test_a_retry_is_published_after_its_task_was_confirmed() -> None:
    run = TaskTimeline(published_at=at(2), started_at=at(3))
    document = Timeline.from_status(TaskStatus(id=ID, state=TaskState.STARTED, timeline=run, accepted_at=START), {
        "confirmed": at(0.1).timestamp()})  # fmt: skip
    assert (document.durations.before, document.durations.publish) == (2000, None)


def test_of_what_nobody_knows_there_are_no_durations() -> None:
    document = Timeline.from_status(TaskStatus(id=ID, state=TaskState.QUEUED))
    assert {ms for ms in document.durations.model_dump().values() if ms is not None} == {0}
    assert document.durations.total == 0


def test_a_worker_may_be_faster_than_the_confirm() -> None:
    document = Timeline.from_status(task(), {"confirmed": at(1.5).timestamp()})
    assert steps(document) == {
        "accepted": None, "confirmed": 1500, "received": 0, "started": 0, "finished": 1000, "stored": 0,
    }  # fmt: skip
    assert document.clock_difference is None


@pytest.mark.parametrize(("ahead", "difference"), [(-5, 4750), (5, 4900), (0.1, None), (-0.1, None)])
def test_no_time_is_negative_and_clocks_that_differ_are_not_hidden(
    ahead: float, difference: float | None
) -> None:
    """The worker's clock is ahead of the API's and Redis'."""
    run = TaskTimeline(
        published_at=at(0.25), received_at=at(0.5 + ahead), started_at=at(1 + ahead), finished_at=at(2 + ahead),
        stored_at=at(2.1),
    )  # fmt: skip
    status = TaskStatus(id=ID, state=TaskState.SUCCESS, timeline=run, accepted_at=START)
    document = Timeline.from_status(status, {"accepted": at(0).timestamp(), "delivered": at(2.5).timestamp()})
    assert document.clock_difference == difference
    assert document.durations.run == 1000
    assert min(ms for ms in steps(document).values() if ms is not None) >= 0
    durations = {ms for ms in document.durations.model_dump().values() if ms is not None}
    assert min(durations) >= 0


def test_a_replay_was_told_before_it_was_published() -> None:
    run = TaskTimeline(published_at=at(60), received_at=at(61), started_at=at(61), finished_at=at(62))
    status = TaskStatus(id=ID, state=TaskState.SUCCESS, timeline=run, finished_at=at(62), accepted_at=START)
    document = Timeline.from_status(status, {"delivered": at(2).timestamp()})
    assert (steps(document)["delivered"], document.clock_difference) == (0, None)


def test_of_a_workflow_the_clocks_of_its_tasks_count_and_its_own_steps_do_not() -> None:
    right, wrong = (
        TaskStatus(
            id=ID,
            state=TaskState.SUCCESS,
            timeline=TaskTimeline(
                published_at=at(1), received_at=at(received), started_at=at(3), finished_at=at(4)
            ),
        )
        for received in (2, 0.5)
    )
    # It had failed, and somebody was told, before its last task ended.
    noted = {"delivered": at(2).timestamp()}
    for child, difference in ((right, None), (wrong, 500)):
        whole = TaskStatus(id=ID, state=TaskState.FAILURE, children=(right, child), accepted_at=START)
        assert Timeline.from_status(whole, noted).clock_difference == difference
    early = TaskStatus(id=ID, state=TaskState.FAILURE, children=(right,), accepted_at=at(3))
    assert Timeline.from_status(early, {}).clock_difference == 2000


def test_without_notes_the_id_says_when_it_was_accepted() -> None:
    assert list(steps(Timeline.from_status(task(), {}))) == [
        "accepted",
        "received",
        "started",
        "finished",
        "stored",
    ]
    # The workflow was accepted, not its member.
    assert "accepted" not in steps(Timeline.from_status(task()))


def test_what_a_later_version_may_note_is_left_out() -> None:
    assert "eaten" not in steps(Timeline.from_status(task(), {"eaten": 1.0}))


def test_a_workflow_begins_with_its_first_task_and_finishes_with_its_last() -> None:
    members = (task(began=3, ended=4), task(began=1, ended=2), task(began=2, ended=5))
    whole = TaskStatus(id=ID, state=TaskState.SUCCESS, children=members, finished_at=at(5), accepted_at=START)
    document = Timeline.from_status(whole, {})
    assert {step.step: step.at for step in document.steps} == {
        "accepted": START, "received": at(1), "started": at(1), "finished": at(5), "stored": at(5)
    }  # fmt: skip
    assert len(document.children) == 3
    # One of them ran from its second 1 to 5; nobody knows what was before.
    assert (document.durations.total, document.durations.run, document.durations.unexplained) == (
        5000,
        4000,
        1000,
    )


def test_an_unfinished_workflow_has_not_finished() -> None:
    members = (task(), task(TaskState.STARTED, ended=None))
    whole = TaskStatus(id=ID, state=TaskState.STARTED, children=members)
    assert list(steps(Timeline.from_status(whole, {}))) == ["received", "started"]


def test_times_are_written_in_utc_with_milliseconds() -> None:
    there = START.astimezone(timezone(timedelta(hours=5, minutes=30))) + timedelta(microseconds=1999)
    whole = TaskStatus(id=ID, state=TaskState.QUEUED, accepted_at=there)
    document = Timeline.from_status(whole, {}).model_dump(mode="json")
    assert document["steps"] == [{"step": "accepted", "at": "2030-01-01T00:00:00.001Z", "milliseconds": None}]
