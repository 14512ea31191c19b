"""Payloads of the integer tasks: what a client may send. The rows are those of the API's table of bad input."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from project_contracts.contract import MAX_DIGITS, MAX_SAFE_INTEGER
from project_contracts.integers import (
    MAX_ITEMS,
    IntegerMultiplicationPayload,
    IntegersSumPayload,
    IntegerWorkflowPayload,
    PowerPayload,
)
from project_contracts.statistics import ContinentStatisticsPayload, WorldReportPayload

safe_integers = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)


@given(safe_integers, safe_integers)
def test_safe_integers_arrive_unchanged(multiplicand: int, multiplier: int) -> None:
    payload = {"multiplicand": multiplicand, "multiplier": multiplier}
    assert IntegerMultiplicationPayload.model_validate(payload).model_dump(mode="json") == payload


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "abc",
        "1",
        "1e3",
        "0x10",
        " 5 ",
        "1_000",
        1.0,
        True,
        None,
        [1],
        MAX_SAFE_INTEGER + 1,
        -MAX_SAFE_INTEGER - 1,
    ],
)
def test_anything_else_is_refused_naming_the_field(bad: Any) -> None:
    with pytest.raises(ValidationError, match="multiplier"):
        IntegerMultiplicationPayload.model_validate({"multiplicand": 1, "multiplier": bad})
    with pytest.raises(ValidationError, match=r"integers\.1"):
        IntegersSumPayload.model_validate({"integers": [1, bad]})
    with pytest.raises(ValidationError, match="\nn\n"):
        IntegerWorkflowPayload.model_validate({"integer": 1, "n": bad})


@pytest.mark.parametrize(
    ("length", "accepted"), [(0, False), (1, True), (MAX_ITEMS, True), (MAX_ITEMS + 1, False)]
)
def test_one_to_a_thousand_items(length: int, accepted: bool) -> None:
    assert is_valid(IntegersSumPayload, {"integers": [1] * length}) is accepted
    assert is_valid(IntegerWorkflowPayload, {"integer": 1, "n": length}) is accepted


@given(safe_integers, st.integers(1, MAX_ITEMS))
def test_power_is_accepted_only_when_its_result_can_be_written(integer: int, n: int) -> None:
    accepted = is_valid(PowerPayload, {"integer": integer, "n": n})
    largest = 10**MAX_DIGITS - 1  # Python refuses to write more digits
    if accepted:
        assert abs(integer) ** n <= largest
    else:
        assert (
            abs(integer) ** n > largest // 100
        )  # what is refused is at most two digits from the limit, or over it


@pytest.mark.parametrize("integer", [0, 1, -1])
def test_powers_that_stay_small_may_be_long(integer: int) -> None:
    assert is_valid(PowerPayload, {"integer": integer, "n": MAX_ITEMS})


def test_refused_power_says_what_to_do() -> None:
    with pytest.raises(
        ValidationError, match="about 4771 digits, the limit is 4300: choose a smaller integer or n"
    ):
        PowerPayload(integer=59049, n=1000)


@pytest.mark.parametrize("continent", ["eu", "XX", "", None, 1])
def test_unknown_continent_is_refused(continent: Any) -> None:
    with pytest.raises(ValidationError, match="continent"):
        ContinentStatisticsPayload.model_validate({"continent": continent})


def test_world_report_needs_reports() -> None:
    with pytest.raises(ValidationError, match="reports"):
        WorldReportPayload(reports=[])


def is_valid(model: Any, payload: dict[str, Any]) -> bool:
    try:
        model.model_validate(payload)
    except ValidationError:
        return False
    return True
