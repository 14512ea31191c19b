"""What the tables that clients edit have in common: how one row, and a list of them, is read.

How it works: a query reads the columns that clients see, not objects. Its SQL depends on the names of the filters
and of the sort only, which are looked up in `filters` and `SORTS`, so each is made once; values travel beside it.
So nothing of a client's becomes SQL.

What belongs here: queries that are the same for each such table. What differs is in its repository.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field, TypeAdapter
from sqlalchemy import (
    REAL,
    ColumnElement,
    Integer,
    Select,
    String,
    bindparam,
    func,
    inspect,
    select,
)

from app.database.errors import RowNotFound
from app.database.keyset import Order, Page, cut, fingerprint, one_page, read_cursor
from project_contracts.places import GeonameId, Name, Population
from project_database.sessions import Query

Record = dict[str, Any]
"""A row as it is read: its columns' values by their names."""

Filters = Mapping[str, Callable[[Any], ColumnElement[bool]]]
"""What a list can be filtered by: a name, and the condition for a value."""

SORTS: Mapping[str, tuple[tuple[str, ...], TypeAdapter[Any]]] = {
    "geonameid": (("geonameid",), TypeAdapter(tuple[GeonameId])),
    "name": (("name", "geonameid"), TypeAdapter(tuple[Name, GeonameId])),
    "population": (("population", "geonameid"), TypeAdapter(tuple[Population, GeonameId])),
}
"""What a list can be sorted by, behind a `-` in descending order: the columns, and what their values are."""

RELEVANCE = "relevance"
"""The order of what was searched for: the most similar name first, the larger place among equals."""

_SCORE = TypeAdapter(tuple[Annotated[float, Field(ge=0, le=1)], Population, GeonameId])


class Reader(Protocol):
    """What runs queries: a `project_database.sessions.Database`, each in a transaction of its own."""

    async def read(self, query: Query, values: Mapping[str, object] | None = None) -> Sequence[Any]:
        """Run one query and return its rows."""


class Rows:
    """The rows of one table, as they are read."""

    entity: ClassVar[str]
    table: ClassVar[Any]  # of `project_database.tables`
    filters: ClassVar[Filters]

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def get_one(self, geonameid: int) -> Record:
        """Return a row.

        Raises:
            RowNotFound: there is none.
        """
        found = await self._reader.read(self._one(), {"geonameid": geonameid})
        if not found:
            raise RowNotFound(self.entity, geonameid)
        return self._record(found[0])

    async def get_page(
        self, wanted: Mapping[str, Any], *, sort: str, limit: int, cursor: str | None
    ) -> Page[Record]:
        """Return the rows of a page.

        Args:
            wanted: values of `filters`, and `q`, what is searched for.
            sort: one of `SORTS`; or `RELEVANCE`, with `q`.
            limit: how many rows at most.
            cursor: where the page before ended; None for the first page.

        Raises:
            CursorError: `cursor` is none of this list.
        """
        listed = fingerprint(self.entity, sort, wanted)
        order, query = self._page(tuple(wanted), sort, cursor is not None)
        values = {**wanted, "at_most": limit + 1}
        if cursor is not None:
            place = read_cursor(cursor, order, listed)
            values |= {f"place_{number}": value for number, value in enumerate(place)}
        page = cut(await self._reader.read(query, values), order, listed, limit)
        return Page(rows=[self._record(row) for row in page.rows], cursor=page.cursor)

    async def count(self, wanted: Mapping[str, Any]) -> int:
        """Count the rows that `get_page` lists, over all pages."""
        ((count,),) = await self._reader.read(self._count(tuple(wanted)), wanted)
        return int(count)

    @classmethod
    @cache
    def _columns(cls) -> Mapping[str, Any]:
        """Return the columns that clients see, by their names; the others are deferred."""
        return {
            one.key: getattr(cls.table, one.key) for one in inspect(cls.table).column_attrs if not one.deferred
        }

    @classmethod
    def _record(cls, row: Iterable[Any]) -> Record:
        """Return what a row has in `_columns`, which come first."""
        return dict(zip(cls._columns(), row, strict=False))

    @classmethod
    @cache
    def _one(cls) -> Query:
        columns = cls._columns().values()
        return Query(select(*columns).where(cls.table.geonameid == bindparam("geonameid")))

    @classmethod
    @cache
    def _page(cls, wanted: tuple[str, ...], sort: str, goes_on: bool) -> tuple[Order, Query]:
        """Return the order of a list, and the query of its first page or of one that goes on behind a place."""
        rows, score = cls._select(wanted)
        order = cls._order(sort, score)
        columns = enumerate(order.columns)
        place = [bindparam(f"place_{n}", type_=column.type) for n, column in columns] if goes_on else None
        return order, Query(one_page(rows, order, place, bindparam("at_most", type_=Integer)))

    @classmethod
    @cache
    def _count(cls, wanted: tuple[str, ...]) -> Query:
        rows, _ = cls._select(wanted)
        return Query(rows.with_only_columns(func.count(), maintain_column_froms=True))

    @classmethod
    def _select(cls, wanted: tuple[str, ...]) -> tuple[Select[Any], ColumnElement[float] | None]:
        """Return the rows that are wanted, and the column of their scores if something is searched for."""
        rows: Select[Any] = select(*cls._columns().values()).where(
            *(cls.filters[name](bindparam(name)) for name in wanted if name != "q")
        )
        if "q" not in wanted:
            return rows, None
        found = cls._find(func.search_form(bindparam("q", type_=String))).subquery()
        return rows.join(found, found.c.geonameid == cls.table.geonameid), found.c.score

    @classmethod
    def _order(cls, sort: str, score: ColumnElement[float] | None) -> Order:
        if sort == RELEVANCE:
            if score is None:
                raise ValueError("rows are sorted by relevance to `q`, what is searched for")
            columns = (score, cls.table.population, cls.table.geonameid)
            return Order(columns=columns, place=_SCORE, descending=True)
        names, place = SORTS[sort.removeprefix("-")]
        return Order(
            columns=tuple(getattr(cls.table, name) for name in names),
            place=place,
            descending=sort.startswith("-"),
        )

    @classmethod
    def _find(cls, searched: ColumnElement[str]) -> Select[int, float]:
        """Return key and `score`, 0 to 1, of each row with a name like `searched`, which has its search form."""
        name = cls.table.search_name
        # `%`: a similarity of at least `pg_trgm.similarity_threshold`, 0.3. "Munch" and "Munich" have 0.44.
        score = func.similarity(name, searched, type_=REAL).label("score")
        return select(cls.table.geonameid, score).where(name.bool_op("%")(searched))
