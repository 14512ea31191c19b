"""Lists page by page: a page goes on behind the last row of the page before, which an index finds at once.

How it works: an order is some columns, the last of them unique, so that every row has its own place. The page
behind a place is `WHERE (columns) > (place) ORDER BY columns LIMIT n`: page 10,000 costs what page 1 costs, and
rows that come and go meanwhile make no other row appear twice or not at all. A cursor is such a place, with a
fingerprint of the list (table, filters, sort) that it belongs to: in another list it would mean nothing.

What belongs here: pages and cursors. Which orders there are is the repositories'.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

T = TypeVar("T")

_FINGERPRINT = 8  # bytes


class CursorError(ValueError):
    """`cursor` is no place in the list that was asked for."""

    def __init__(self, cursor: str) -> None:
        super().__init__(
            f"{cursor!r:.60} is no cursor of this list: use the one that the page before has named, with the "
            "same filters and the same sort, or none"
        )
        self.cursor = cursor


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order without ties.

    Attributes:
        columns: the last one is unique.
        place: reads a place, the values of these columns.
        descending: all of them, as an index that is read backwards has it.
    """

    columns: tuple[ColumnElement[Any] | InstrumentedAttribute[Any], ...]
    place: TypeAdapter[Any]  # of a tuple as long as `columns`
    descending: bool = False

    def behind(self, place: Sequence[object]) -> ColumnElement[bool]:
        """Return the condition that a row comes after `place`: values, or bind parameters."""
        columns = tuple_(*self.columns)
        behind = tuple_(*place, types=[column.type for column in self.columns])
        return columns < behind if self.descending else columns > behind

    def clauses(self) -> list[ColumnElement[Any]]:
        """Return what ORDER BY takes."""
        return [column.desc() if self.descending else column.asc() for column in self.columns]


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """Some rows of a list; `cursor` is where the next page begins, None behind the last row."""

    rows: Sequence[T]
    cursor: str | None


def fingerprint(*of: object) -> bytes:
    """Return what tells a list from others.

    Args:
        of: table, sort and filters, as JSON values.
    """
    return hashlib.blake2b(json.dumps(of, sort_keys=True).encode(), digest_size=_FINGERPRINT).digest()


def write_cursor(place: Sequence[object], listed: bytes) -> str:
    """Return the cursor of a place in the list with the fingerprint `listed`."""
    return base64.urlsafe_b64encode(listed + json.dumps(place).encode()).rstrip(b"=").decode()


def read_cursor(cursor: str, order: Order, listed: bytes) -> Sequence[object]:
    """Return the place of a cursor.

    Raises:
        CursorError: nobody wrote it, or for another list.
    """
    try:
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place: Sequence[object] = order.place.validate_json(content[_FINGERPRINT:], strict=True)
    except ValueError as error:
        raise CursorError(cursor) from error
    if content[:_FINGERPRINT] != listed:
        raise CursorError(cursor)
    return place


def one_page(
    rows: Select[Any], order: Order, place: Sequence[object] | None, limit: int | ColumnElement[int]
) -> Select[Any]:
    """Return the query of one page, as `cut` takes its rows.

    Args:
        rows: all rows of the list.
        order: their order.
        place: behind which the page begins; None for the first page. Values, or bind parameters.
        limit: how many rows at most, and one more: it tells whether there is a next page.
    """
    if place is not None:
        rows = rows.where(order.behind(place))
    return rows.add_columns(*order.columns).order_by(*order.clauses()).limit(limit)


def cut(found: Sequence[Any], order: Order, listed: bytes, limit: int) -> Page[Any]:
    """Return the page of what its query has found; the order's columns are the last ones of each row."""
    shown = found[:limit]
    place = slice(-len(order.columns), None)
    return Page(rows=shown, cursor=write_cursor(shown[-1][place], listed) if len(found) > limit else None)


async def read_page(
    session: AsyncSession, rows: Select[T], order: Order, listed: bytes, *, limit: int, cursor: str | None
) -> Page[T]:
    """Read one page of a table's objects.

    Args:
        session: whose transaction it is.
        rows: all rows of the list.
        order: their order.
        listed: the list's fingerprint.
        limit: how many rows at most.
        cursor: where the page before ended; None for the first page.

    Raises:
        CursorError: `cursor` is none of this list.
    """
    place = None if cursor is None else read_cursor(cursor, order, listed)
    result = await session.execute(one_page(rows, order, place, limit + 1))
    page = cut(result.all(), order, listed, limit)
    return Page(rows=[row[0] for row in page.rows], cursor=page.cursor)
