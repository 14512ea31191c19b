"""Cursors: what is written is read again, in its own list only, and nothing else is a cursor."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.database.keyset import CursorError, Order, fingerprint, read_cursor, write_cursor
from app.database.rows import SORTS
from project_database.tables import City

LIST = fingerprint("city", "name", {"country": "FR"})


def order(sort: str) -> Order:
    names, place = SORTS[sort]
    return Order(columns=tuple(getattr(City, name) for name in names), place=place)


def forged(place: object) -> str:
    content = LIST + json.dumps(place).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


IDS = st.integers(1, 2**31 - 1)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=250)


@given(NAMES.map(str.strip).filter(bool), IDS)
def test_a_cursor_names_its_place(name: str, geonameid: int) -> None:
    cursor = write_cursor((name, geonameid), LIST)
    assert "=" not in cursor
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert tuple(read_cursor(cursor, order("name"), LIST)) == (name, geonameid)


def test_a_cursor_is_of_its_list_only() -> None:
    cursor = write_cursor(("Paris", 2988507), LIST)
    for other in (
        fingerprint("country", "name", {"country": "FR"}),
        fingerprint("city", "-name", {"country": "FR"}),
        fingerprint("city", "name", {"country": "DE"}),
        fingerprint("city", "name", {"country": "FR", "q": "Paris"}),
        fingerprint("city", "name", {}),
    ):
        with pytest.raises(CursorError):
            read_cursor(cursor, order("name"), other)


@pytest.mark.parametrize(
    "place",
    [
        [],
        ["Paris"],
        [1, 1],
        ["Paris", "1"],
        ["Paris", 0],
        ["Paris", 2**31],
        ["Paris", 1.5],
        ["Paris", True],
        ["Pa\0ris", 1],
        ["\ud800", 1],
        ["", 1],
        ["x" * 251, 1],
        ["Paris", 1, 1],
        [["Paris"], 1],
        {"0": "Paris"},
        None,
    ],
)
def test_a_forged_place_is_refused(place: object) -> None:
    with pytest.raises(CursorError):
        read_cursor(forged(place), order("name"), LIST)


@given(st.text(max_size=100))
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(CursorError) as refused:
        read_cursor(text, order("population"), LIST)
    assert refused.value.cursor == text


@given(st.binary(max_size=100))
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(CursorError):
        read_cursor(base64.urlsafe_b64encode(LIST + content).decode(), order("population"), LIST)
