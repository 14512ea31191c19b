"""Imports: what is staged of them, what became of it, and which of their parts are done.

How it works: `begin_part` writes a part's row before the part is loaded, in the same transaction. So of two runs
of one part the second waits for the first, and then finds it done; a run that dies leaves nothing behind.

What belongs here: the tables `imports`, `import_rows` and `import_parts`. The steps of an import are in
`importing.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Text, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from project_contracts.imports import ImportCounts
from project_database.sessions import copy_rows
from project_database.tables import Import, ImportPart, ImportRow

_NO_ROWS_IN_MEMORY = {"synchronize_session": False}
"""The session holds no object of the rows that a statement changes, so it need not hear which those are."""


class UnknownImport(LookupError):  # noqa: N818  # the name that clients read
    """There is no such import (any more)."""

    code = "unknown_import"

    def __init__(self, import_id: UUID) -> None:
        super().__init__(f"there is no import {import_id}: start a new one, with POST /v1/imports")


class StagedRow(NamedTuple):
    """A row that waits; `first_line` is where the first one of its key stands, None when that is this one."""

    position: int
    fields: list[str]
    first_line: int | None


class NewRow(NamedTuple):
    """A row to be staged."""

    import_id: UUID
    position: int
    line: int
    key: int | None
    fields: list[str]


class Imports:
    """Imports, as one transaction sees them."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get_one(self, import_id: UUID, *, lock: bool = False) -> Import:
        """Return an import; with `lock`, no other transaction may change it before the end of this one.

        Raises:
            UnknownImport: there is none.
        """
        # The weaker lock: others may add rows that refer to it.
        found = await self._session.get(Import, import_id, with_for_update={"key_share": True} if lock else None)
        if found is None:
            raise UnknownImport(import_id)
        return found

    async def stage(self, rows: Iterable[NewRow]) -> int:
        """Add rows; return how many."""
        return await copy_rows(self._session, ImportRow.__tablename__, NewRow._fields, rows)

    async def read_rows(self, import_id: UUID, first: int, end: int) -> Sequence[StagedRow]:
        """Return the rows from position `first` up to, not including, `end` that are not rejected yet."""
        earlier = aliased(ImportRow)
        first_line = (
            select(earlier.line)
            .where(
                earlier.key == ImportRow.key,
                # IS TRUE, so that no plan looks by position for a key. As long as PostgreSQL's statistics do not
                # know this import they promise that it has one row, and reading all of it looks as cheap.
                (earlier.import_id == import_id).is_(True),
                earlier.position < ImportRow.position,
            )
            .order_by(earlier.position)
            .limit(1)
            .scalar_subquery()
        )
        rows = await self._session.execute(
            select(ImportRow.position, ImportRow.fields, first_line)
            .where(
                ImportRow.import_id == import_id,
                ImportRow.position >= first,
                ImportRow.position < end,
                ImportRow.error.is_(None),
            )
            .order_by(ImportRow.position)
        )
        return [StagedRow._make(row) for row in rows]

    async def reject(self, import_id: UUID, errors: Mapping[int, str]) -> None:
        """Write into rows why they are rejected, by position."""
        if not errors:
            return
        pairs = func.unnest(cast(list(errors), ARRAY(Integer)), cast(list(errors.values()), ARRAY(Text)))
        rejected = pairs.table_valued("position", "error", name="rejected").render_derived()
        await self._session.execute(
            update(ImportRow)
            .where(ImportRow.import_id == import_id, ImportRow.position == rejected.c.position)
            .values(error=rejected.c.error),
            execution_options=_NO_ROWS_IN_MEMORY,
        )

    async def begin_part(self, import_id: UUID, part: int) -> bool:
        """Begin a part, after any other run of it; return False when it is done already.

        Raises:
            ParentMissing: there is no such import.
        """
        nothing_yet = dict.fromkeys(ImportCounts.model_fields, 0)
        begun = await self._session.execute(
            insert(ImportPart)
            .values(import_id=import_id, part=part, **nothing_yet)
            .on_conflict_do_nothing()
            .returning(ImportPart.part)
        )
        return begun.first() is not None

    async def end_part(self, import_id: UUID, part: int, counts: ImportCounts, *, rejected: int) -> None:
        """Write what became of a part's rows; `rejected` are those that were not rejected before.

        Other parts of the import wait here until this transaction ends: it is the last thing to be done.
        """
        await self._session.execute(
            update(ImportPart)
            .where(ImportPart.import_id == import_id, ImportPart.part == part)
            .values(**counts.model_dump()),
            execution_options=_NO_ROWS_IN_MEMORY,
        )
        if rejected:
            await self._session.execute(
                update(Import).where(Import.id == import_id).values(rejected=Import.rejected + rejected),
                execution_options=_NO_ROWS_IN_MEMORY,
            )

    async def get_part(self, import_id: UUID, part: int) -> ImportCounts:
        """Return what became of the rows of a part that is done."""
        return await self._sum(ImportPart.import_id == import_id, ImportPart.part == part)

    async def sum_parts(self, import_id: UUID) -> ImportCounts:
        """Return what became of the rows of all parts that are done."""
        return await self._sum(ImportPart.import_id == import_id)

    async def _sum(self, *parts: ColumnElement[bool]) -> ImportCounts:
        numbers = ImportPart.__table__.c
        sums = [func.coalesce(func.sum(numbers[name]), 0).label(name) for name in ImportCounts.model_fields]
        row = (await self._session.execute(select(*sums).where(*parts))).one()
        return ImportCounts.model_validate(row._asdict())

    async def delete_loaded_rows(self, import_id: UUID) -> None:
        """Delete the staged rows that were not rejected."""
        await self._session.execute(
            delete(ImportRow).where(ImportRow.import_id == import_id, ImportRow.error.is_(None)),
            execution_options=_NO_ROWS_IN_MEMORY,
        )
