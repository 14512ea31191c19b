"""Rows of a file: which are cities, and what the owners of the others are told."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from project_contracts.contract import MAX_SAFE_INTEGER
from project_contracts.imports import COLUMNS, REQUIRED_COLUMNS
from project_contracts.places import MAX_ALTERNATE_NAMES, MAX_GEONAMEID, MAX_NAME_LENGTH
from worker.domain.city_rows import RULES, CityRow, RowError, city_parser, explain_duplicate

PARIS = {
    "geonameid": "2988507",
    "name": "Paris",
    "country_code": "FR",
    "latitude": "48.85341",
    "longitude": "2.3488",
    "timezone": "Europe/Paris",
    "alternate_names": "Lutetia|Parigi",
    "admin1_code": "11",
    "population": "2138551",
}


def parse(fields: Mapping[str, str] = PARIS, columns: Sequence[str] = COLUMNS) -> CityRow:
    """Parse Paris with other `fields`, of a file with these `columns`."""
    return city_parser(columns, {"FR", "DE"})([{**PARIS, **fields}[column] for column in columns])


def test_a_row_becomes_a_city() -> None:
    assert parse() == CityRow(
        geonameid=2988507,
        name="Paris",
        country_code="FR",
        latitude=48.85341,
        longitude=2.3488,
        timezone="Europe/Paris",
        alternate_names=["Lutetia", "Parigi"],
        admin1_code="11",
        population=2138551,
    )
    assert CityRow._fields == COLUMNS
    assert set(RULES) == set(COLUMNS)


def test_columns_come_in_any_order_and_optional_ones_may_be_missing() -> None:
    assert parse(columns=COLUMNS[::-1]) == parse()
    assert parse(columns=REQUIRED_COLUMNS) == parse()._replace(alternate_names=[], admin1_code=None, population=0)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("geonameid", "1", 1),
        ("geonameid", " 007 ", 7),
        ("geonameid", str(MAX_GEONAMEID), MAX_GEONAMEID),
        ("name", " Willemstad", "Willemstad"),
        ("name", "x" * MAX_NAME_LENGTH, "x" * MAX_NAME_LENGTH),
        ("name", "'; drop table cities--", "'; drop table cities--"),
        ("name", "🏙 שלום e\u0301", "🏙 שלום e\u0301"),
        ("country_code", " DE", "DE"),
        ("latitude", "90", 90.0),
        ("latitude", "-90.0", -90.0),
        ("longitude", " -1.8e2 ", -180.0),
        ("longitude", "+180.", 180.0),
        ("timezone", "Asia/Kolkata", "Asia/Kolkata"),
        ("alternate_names", "", []),
        ("alternate_names", "|", []),
        ("alternate_names", " a || b|", ["a", "b"]),
        ("alternate_names", "|".join("x" * MAX_ALTERNATE_NAMES), ["x"] * MAX_ALTERNATE_NAMES),
        ("admin1_code", "", None),
        ("admin1_code", "  ", None),
        ("admin1_code", "x" * 20, "x" * 20),
        ("population", "", 0),
        ("population", "0", 0),
        ("population", str(MAX_SAFE_INTEGER), MAX_SAFE_INTEGER),
    ],
)
def test_what_a_field_may_hold(field: str, text: str, value: Any) -> None:
    assert getattr(parse({field: text}), field) == value


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("geonameid", text) for text in ("", "0", "-1", "1.0", "1_0", "+1", "1e3", "0x10", "١")),
        *(("geonameid", text) for text in (str(MAX_GEONAMEID + 1), "9" * 5000)),
        *(("name", text) for text in ("", "  ", "x" * (MAX_NAME_LENGTH + 1), "a\0b")),
        *(("country_code", text) for text in ("", "fr", "FRA", "F", "FR\0", "ÄÖ")),
        *(("latitude", text) for text in ("", "90.00001", "nan", "inf", "48,85", "1_0", "48°", "٣", "0x1", ".")),
        *(("longitude", text) for text in ("", "-180.1", "NaN", "-Infinity", "1e999", "2.3 E")),
        *(("timezone", text) for text in ("", "Mars/Olympus", "europe/paris", "../etc/passwd", "CET\0")),
        *(
            ("alternate_names", text)
            for text in ("x" * (MAX_NAME_LENGTH + 1), "x|" * (MAX_ALTERNATE_NAMES + 1), "\0")
        ),
        *(("admin1_code", text) for text in ("x" * 21, "\0")),
        *(
            ("population", text)
            for text in ("12,000", "-1", "1.5", "1e3", "many", str(MAX_SAFE_INTEGER + 1), "9" * 5000)
        ),
    ],
)
def test_anything_else_is_refused_with_what_to_write(field: str, text: str) -> None:
    with pytest.raises(RowError) as refused:
        parse({field: text})
    assert str(refused.value).startswith(f"{field}: ")
    assert str(refused.value).endswith(f" is not {RULES[field]}")
    assert len(str(refused.value)) < 300  # whatever the length of the field


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(RowError) as refused:
        parse({"geonameid": "x", "population": "12,000", "alternate_names": "\0|\0"})
    assert [part.split(":")[0] for part in str(refused.value).split("; ")] == [
        "geonameid",
        "alternate_names",
        "population",
    ]
    assert "population: '12,000' is not a whole number" in str(refused.value)
    assert "write its digits alone, such as 12000" in str(refused.value)


def test_a_country_must_exist() -> None:
    with pytest.raises(RowError, match="there is no country AQ: create it first"):
        parse({"country_code": "AQ"})


def test_a_duplicate_names_the_line_that_counts() -> None:
    assert explain_duplicate(17).startswith("geonameid: line 17 has the same")


@given(st.lists(st.text(max_size=20), min_size=len(COLUMNS), max_size=len(COLUMNS)))
def test_no_text_breaks_the_parser(fields: list[str]) -> None:
    with pytest.raises(RowError):
        city_parser(COLUMNS, {"FR"})(fields)


names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="|"), min_size=1, max_size=250)
cities = st.builds(
    CityRow,
    geonameid=st.integers(1, MAX_GEONAMEID),
    name=names.map(str.strip).filter(bool),
    country_code=st.sampled_from(["FR", "DE"]),
    latitude=st.floats(-90, 90),
    longitude=st.floats(-180, 180),
    timezone=st.sampled_from(["Europe/Paris", "UTC", "America/Argentina/ComodRivadavia"]),
    alternate_names=st.lists(names.map(str.strip).filter(bool), max_size=5),
    admin1_code=st.none() | st.text("0123456789ABC", min_size=1, max_size=20),
    population=st.integers(0, MAX_SAFE_INTEGER),
)


@given(cities)
def test_a_city_written_as_a_row_is_read_back(city: CityRow) -> None:
    fields = [
        "|".join(value) if isinstance(value, list) else "" if value is None else str(value) for value in city
    ]
    assert city_parser(COLUMNS, {"FR", "DE"})(fields) == city
