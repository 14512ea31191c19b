"""The sequence of pauses."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_celery.backoff import Backoff


def test_without_jitter_pauses_grow_to_the_limit() -> None:
    pauses = Backoff(first=0.1, factor=2, limit=0.5, jitter=0).pauses()
    assert list(islice(pauses, 5)) == [0.1, 0.2, 0.4, 0.5, 0.5]


@given(first=st.floats(0.001, 1), growth=st.floats(1, 10), span=st.floats(1, 100), jitter=st.floats(0, 1))
def test_every_pause_lies_between_its_bounds(first: float, growth: float, span: float, jitter: float) -> None:
    limit = first * span
    plain = Backoff(first=first, factor=growth, limit=limit, jitter=0).pauses()
    jittered = Backoff(first=first, factor=growth, limit=limit, jitter=jitter).pauses()
    for upper, pause in islice(zip(plain, jittered, strict=False), 30):
        assert upper * (1 - jitter) <= pause <= upper <= limit


def test_jitter_spreads() -> None:
    backoff = Backoff(jitter=0.5)
    assert len({next(backoff.pauses()) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    "wrong", [{"first": 0}, {"first": 2}, {"factor": 0.9}, {"jitter": 1.1}, {"jitter": -0.1}]
)
def test_what_never_pauses_or_never_settles_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="need 0 < first"):
        Backoff(**wrong)
