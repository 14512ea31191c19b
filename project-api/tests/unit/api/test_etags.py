"""RFC 9110: entity tags, compared strongly and weakly."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from app.api.etags import EntityTags, check_if_match, etag, parse_entity_tags
from app.database.errors import StaleVersion


@dataclass
class Row:
    version: int = 3
    created_at: datetime = datetime(2026, 5, 4, 13, 7, 9, 123456, tzinfo=UTC)


def test_a_tag_is_of_one_version_of_one_row() -> None:
    made = Row().created_at
    assert etag(3, made) == etag(3, made.astimezone(timezone(timedelta(hours=2)))) == '"3-650fd9bae9b80"'
    assert len({etag(3, made), etag(4, made), etag(3, made + timedelta(microseconds=1))}) == 3


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (['"a"'], {'"a"'}),
        (['""'], {'""'}),
        (['"a", "b"'], {'"a"', '"b"'}),
        (['"a","b"'], {'"a"', '"b"'}),
        (['"a"', '"b"'], {'"a"', '"b"'}),
        ([', "a" ,, W/"b",'], {'"a"', 'W/"b"'}),
        (['"a,b"'], {'"a,b"'}),
        (['"\xe9"'], {'"\xe9"'}),
    ],
)
def test_a_list_of_tags_is_read(values: list[str], named: set[str]) -> None:
    assert parse_entity_tags("If-Match", values) == EntityTags(named=frozenset(named))


def test_any_and_none() -> None:
    assert parse_entity_tags("If-Match", [" * "]) == EntityTags(any=True)
    assert parse_entity_tags("If-Match", None) is None


@pytest.mark.parametrize(
    "values",
    [[""], ["a"], ['"a'], ['"a""b"'], ['"a" "b"'], ['w/"a"'], ['"a b"'], ["*, *"], ['*, "a"'], ["1"], [","]],
)
def test_what_is_no_list_of_tags_is_400(values: list[str]) -> None:
    with pytest.raises(HTTPException) as refused:
        parse_entity_tags("If-Match", values)
    assert refused.value.status_code == 400
    assert "If-Match" in refused.value.detail


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=50), max_size=3))
def test_any_header_is_read_or_refused(values: list[str]) -> None:
    try:
        parse_entity_tags("If-Match", values)
    except HTTPException as refused:
        assert refused.status_code == 400


def test_strong_and_weak_comparison() -> None:
    tags = EntityTags(named=frozenset({'"a"', 'W/"b"'}))
    assert [tags.has('"a"'), tags.has('"b"'), tags.has('"c"')] == [True, False, False]
    assert [tags.has_weakly('"a"'), tags.has_weakly('"b"'), tags.has_weakly('"c"')] == [True, True, False]
    assert EntityTags(any=True).has('"c"')


def test_a_write_needs_the_version_that_its_client_has_seen() -> None:
    row = Row()
    tag = etag(row.version, row.created_at)
    for fine in (None, EntityTags(any=True), EntityTags(named=frozenset({'"x"', tag}))):
        check_if_match(fine, row, "city", 7)
    for stale in (f"W/{tag}", '"2-650fd9bae9b80"', '"3"'):
        with pytest.raises(StaleVersion):
            check_if_match(EntityTags(named=frozenset({stale})), row, "city", 7)
