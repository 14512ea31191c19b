"""Fields of places: the bounds that clients and files share."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from project_contracts.contract import MAX_SAFE_INTEGER
from project_contracts.places import (
    MAX_GEONAMEID,
    Admin1Code,
    AlternateNames,
    CountryCode,
    GeonameId,
    Latitude,
    Longitude,
    Name,
    Population,
    Timezone,
    parse_geonameid,
)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (GeonameId, [1, MAX_GEONAMEID], [0, -1, MAX_GEONAMEID + 1, 2**63, "1", 1.0, True]),
        (Name, ["x", "x" * 250, "🏙", "e\u0301", "שלום"], ["", " ", "x" * 251, "\0", "a\0", None, 1]),
        (AlternateNames, [[], ["x"] * 500], [["x"] * 501, [""], "x", None]),
        (CountryCode, ["FR"], ["", "fr", "FRA", "FR\n", "F\0", "ÄÖ"]),
        (Admin1Code, ["11", "x" * 20], ["", "x" * 21, "\0"]),
        (Latitude, [-90.0, 90.0, 0.0], [90.1, float("nan"), float("inf"), "1", None]),
        (Longitude, [-180.0, 180.0], [-180.1, float("nan"), float("-inf")]),
        (Population, [0, MAX_SAFE_INTEGER], [-1, MAX_SAFE_INTEGER + 1, 1.5, "1"]),
        (
            Timezone,
            ["Europe/Paris", "UTC"],
            ["", "europe/paris", "Mars", "../etc/passwd", "x" * 51, "UTC\0", None],
        ),
    ],
)
def test_bounds_as_a_client_meets_them(field: Any, good: list[Any], bad: list[Any]) -> None:
    adapter = TypeAdapter(field)
    for value in good:
        assert adapter.validate_python(value, strict=True) == value
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value, strict=True)


def test_spaces_around_a_name_are_no_part_of_it() -> None:
    assert TypeAdapter(Name).validate_python(" Willemstad\n") == "Willemstad"


@given(st.integers(1, MAX_GEONAMEID))
def test_a_geonameid_is_read_from_its_digits(number: int) -> None:
    assert parse_geonameid(str(number)) == parse_geonameid(f" {number:010} ") == number


@given(st.text() | st.integers().map(str) | st.floats().map(repr))
def test_a_geonameid_is_read_from_nothing_else(text: str) -> None:
    number = parse_geonameid(text)
    assert number is None or (1 <= number <= MAX_GEONAMEID and text.strip().lstrip("0") == str(number))


@pytest.mark.parametrize("text", ["", "0", "-1", "+1", "1_0", "1.0", "١", "9" * 5000, str(MAX_GEONAMEID + 1)])
def test_these_are_none(text: str) -> None:
    assert parse_geonameid(text) is None
