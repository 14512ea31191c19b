"""Where the time went: every moment is in one stage, or unexplained, and all of them make the total."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.celery.stages import Durations, Span, Stage

START = datetime(2030, 1, 1, tzinfo=UTC)


def span(stage: Stage, begin: float, end: float) -> Span:
    return Span(stage, START + timedelta(milliseconds=begin), START + timedelta(milliseconds=end))


def known(durations: Durations) -> dict[str, float]:
    return {name: ms for name, ms in durations.model_dump().items() if ms is not None}


def test_a_task_is_in_one_stage_after_the_other() -> None:
    spans = [
        span(Stage.BEFORE, 0, 1), span(Stage.DELAY, 1, 100), span(Stage.QUEUE, 100, 110),
        span(Stage.RUN, 110, 310), span(Stage.STORE, 310, 312), span(Stage.DELIVERY, 312, 315),
    ]  # fmt: skip
    durations = Durations.of(spans, total=timedelta(milliseconds=315), publish=timedelta(milliseconds=3))
    assert known(durations) == {
        "total": 315, "before": 1, "delay": 99, "queue": 10, "run": 200, "store": 2, "delivery": 3,
        "unexplained": 0, "publish": 3,
    }  # fmt: skip


def test_what_is_not_known_is_null_and_its_time_unexplained() -> None:
    durations = Durations.of([span(Stage.QUEUE, 0, 10)], total=timedelta(milliseconds=25), publish=None)
    assert known(durations) == {"total": 25, "queue": 10, "unexplained": 15}


def test_a_workflow_runs_while_any_of_it_runs_and_waits_only_then() -> None:
    spans = [
        # Two beside each other, then one that is sent 5 ms after the last has ended.
        span(Stage.QUEUE, 0, 10), span(Stage.RUN, 10, 50),
        span(Stage.QUEUE, 0, 30), span(Stage.RUN, 30, 60),
        span(Stage.QUEUE, 65, 70), span(Stage.RUN, 70, 100),
    ]  # fmt: skip
    durations = Durations.of(spans, total=timedelta(milliseconds=100), publish=None)
    assert known(durations) == {"total": 100, "queue": 15, "run": 80, "unexplained": 5}


def test_a_stage_that_ends_before_it_begins_took_no_time() -> None:
    """The clocks of two machines: the metric of the same wait is 0, too."""
    spans = [span(Stage.QUEUE, 20, 0), span(Stage.RUN, 0, 30)]
    durations = Durations.of(spans, total=timedelta(milliseconds=30), publish=None)
    assert known(durations) == {"total": 30, "queue": 0, "run": 30, "unexplained": 0}


moments = st.integers(0, 1000)


@given(st.lists(st.builds(span, st.sampled_from(Stage), moments, moments)))
def test_all_of_it_makes_the_total(spans: list[Span]) -> None:
    ends = [at for one in spans for at in (one.begin, one.end)]
    total = max(ends) - min(ends) if ends else timedelta()
    found = known(Durations.of(spans, total=total, publish=None))
    whole = found.pop("total")
    assert whole == total.total_seconds() * 1000
    assert all(ms >= 0 for ms in found.values())
    assert sum(found.values()) == pytest.approx(whole)
    assert set(found) == {*(str(one.stage) for one in spans), "unexplained"}
