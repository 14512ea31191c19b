"""What a message says about its times, and what it says about nothing."""

from typing import Any

import pytest

from async_celery.worker.schedule import due_at, published_at


@pytest.mark.parametrize(
    "text", ["1970-01-01T00:00:02.5+00:00", "1970-01-01T01:00:02.5+01:00", "1970-01-01T00:00:02.5"]
)
def test_due_is_the_eta_in_utc_unless_it_says_otherwise(text: str) -> None:
    assert due_at({"eta": text}) == 2.5


@pytest.mark.parametrize("eta", [None, "", "soon", 5, ["2030"], {}])
def test_what_is_no_time_is_not_due_later(eta: Any) -> None:
    assert due_at({"eta": eta}) is None
    assert due_at({}) is None


@pytest.mark.parametrize("header", [None, "1.5", float("nan"), float("inf"), [1], {}])
def test_what_is_no_number_says_nothing(header: Any) -> None:
    assert published_at({"x-published-at": header}) is None


@pytest.mark.parametrize("header", [1, 1.5])
def test_published_is_the_senders_header(header: float) -> None:
    assert published_at({"x-published-at": header}) == header
