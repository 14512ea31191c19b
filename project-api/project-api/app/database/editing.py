"""Writing to the tables that clients edit.

How it works: who is about to change a row locks it first, so what the client's If-Match is compared with, what a
patch is applied to, and what is written are one and the same version: of two writers at a time, the second sees
what the first has left. A version counts what has changed, not how often somebody wrote.

What belongs here: what is the same for each such table. What differs is in its repository.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.errors import RowNotFound
from project_database.tables import City, Country

T = TypeVar("T", City, Country)


class Editor(Generic[T]):
    """Changes the rows of one table, in one transaction."""

    entity: ClassVar[str]
    table: ClassVar[Any]  # type[T]: a class variable cannot say so

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self, geonameid: int) -> T:
        """Return a row, and keep others from changing it until this transaction ends.

        Rows that refer to it may come meanwhile.

        Raises:
            RowNotFound: there is none.
        """
        row: T | None = await self._session.get(self.table, geonameid, with_for_update={"key_share": True})
        if row is None:
            raise RowNotFound(self.entity, geonameid)
        return row

    async def add(self, values: Mapping[str, Any]) -> T:
        """Insert a row.

        Raises:
            AlreadyExists: its key is taken.
            ParentMissing: its country does not exist.
        """
        row: T = self.table(**values)
        self._session.add(row)
        await self._session.flush()
        return row

    async def change(self, row: T, values: Mapping[str, Any]) -> bool:
        """Write the values that differ from what a locked row has; return whether there were any.

        Raises:
            AlreadyExists: its new key is taken.
            ParentMissing: its new country does not exist.
            StillReferenced: other rows refer to it by its old code.
        """
        changes = {name: value for name, value in values.items() if getattr(row, name) != value}
        if not changes:
            return False
        table = self.table
        await self._session.execute(
            update(table)
            .where(table.geonameid == row.geonameid, table.version == row.version)
            .values(**changes, version=table.version + 1, updated_at=func.now())
            .returning(table)
            .execution_options(populate_existing=True)
        )
        return True

    async def delete(self, row: T) -> None:
        """Delete a locked row.

        Raises:
            StillReferenced: other rows refer to it.
        """
        await self._session.delete(row)
        await self._session.flush()
