"""Many places into their table at once: COPYed aside, then merged in one statement.

How it works: COPY is the fastest way in and knows no conflicts, so rows go to a temporary table first, which
lives as long as the transaction. The merge inserts what is new and updates what differs. What is the same is not
touched: no lock, no new version, no entry in an index. Rows are merged in the order of their key, so that two
transactions with the same rows wait for each other instead of deadlocking.

What belongs here: the mechanism. Which rows, and what they count for, is the repositories'.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Column, MetaData, Table, func, literal_column, or_, select, tuple_, union
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from project_contracts.imports import ImportCounts
from project_database.sessions import copy_rows
from project_database.tables import City, Country


class Merge:
    """Rows on their way into one table."""

    def __init__(self, session: AsyncSession, model: type[City | Country], fields: Sequence[str]) -> None:
        """Prepare a merge; `begin` comes first.

        Args:
            session: whose transaction it is.
            model: the table's class; its key is `geonameid`.
            fields: what is written of each row, the key first.
        """
        self._session = session
        self._model = model
        self._fields = fields
        self._table = model.__table__
        self._incoming = Table(
            f"incoming_{model.__tablename__}",
            MetaData(),
            *(Column(name, self._table.c[name].type) for name in fields),
            prefixes=["TEMPORARY"],
            postgresql_on_commit="DROP",
        )

    async def begin(self) -> None:
        """Make the temporary table."""
        connection = await self._session.connection()
        await connection.run_sync(self._incoming.create)

    async def add(self, rows: Iterable[Sequence[object]]) -> None:
        """Send rows; no key twice."""
        await copy_rows(self._session, self._incoming.name, self._fields, rows)

    async def values(self, field: str) -> Sequence[str]:
        """Return what a field is in the rows that were sent, and in the stored ones that they are to replace."""
        key, stored, incoming = self._fields[0], self._table.c, self._incoming.c
        replaced = select(stored[field]).join(self._incoming, stored[key] == incoming[key])
        return (await self._session.scalars(union(select(incoming[field]), replaced))).all()

    async def merge(self, *, read: int, accepted: int) -> ImportCounts:
        """Insert or update what differs; return what became of all rows.

        Args:
            read: how many rows there were.
            accepted: how many of them were sent here, the others being rejected.
        """
        key, *values = self._fields
        stored, incoming = self._table.c, self._incoming.c
        differs = tuple_(*(stored[name] for name in values)).is_distinct_from(
            tuple_(*(incoming[name] for name in values))
        )
        # Asked again below, of the row as it is when its lock is had: somebody else may have been first.
        changes = (
            select(self._incoming)
            .outerjoin(self._table, stored[key] == incoming[key])
            .where(or_(stored[key].is_(None), differs))
            .order_by(incoming[key])
        )
        new = insert(self._model).from_select(list(self._fields), changes)
        written = (
            new.on_conflict_do_update(
                index_elements=[key],
                set_={
                    **{name: new.excluded[name] for name in values},
                    "version": stored.version + 1,
                    "updated_at": func.now(),
                },
                where=tuple_(*(stored[name] for name in values)).is_distinct_from(
                    tuple_(*(new.excluded[name] for name in values))
                ),
            )
            # A row that was there has been locked by this transaction, a new one by none.
            .returning(literal_column("xmax = 0").label("is_new"))
            .cte("written")
        )
        counts = select(
            func.count().filter(written.c.is_new).label("inserted"),
            func.count().filter(~written.c.is_new).label("updated"),
        )
        inserted, updated = (await self._session.execute(counts)).one()
        return ImportCounts(
            read=read,
            inserted=inserted,
            updated=updated,
            unchanged=accepted - inserted - updated,
            rejected=read - accepted,
        )
