"""The imports: what is staged for the worker, how far it has come, what it has rejected.

How it works: a file's rows become rows of `import_rows` while they arrive, in pieces, each one COPY: no statement
waits for the client, and no more than two pieces are in memory, one being written and one being read. All pieces
are one transaction, so a file that does not arrive as a whole leaves nothing.

What belongs here: the queries on `imports` and its rows, as the API asks them. Loading is the worker's.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from pydantic import Field, TypeAdapter
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.records import Table
from app.database.errors import RowNotFound
from app.database.keyset import Order, Page, fingerprint, read_page
from project_contracts.imports import MAX_PARTS, ROWS_PER_PART, ImportCounts
from project_contracts.places import parse_geonameid
from project_database.sessions import copy_rows
from project_database.tables import Import, ImportPart, ImportRow

T = TypeVar("T")

Source = Literal["geonames", "upload"]

# What one COPY takes: 50 ms of PostgreSQL's time, where a statement may take seconds, and some MB of memory.
_PIECE_ROWS = 5000
_PIECE_CHARACTERS = 1024 * 1024

_ROWS_AT_A_TIME = 250  # encoded before other requests get their turn: about 2 ms

_STAGED = ("import_id", "position", "line", "key", "fields", "error")

_POSITION = TypeAdapter(tuple[Annotated[int, Field(ge=0, lt=MAX_PARTS * ROWS_PER_PART)]])

_StagedRow = tuple[UUID, int, int, int | None, list[str] | None, str | None]


@dataclass(frozen=True, kw_only=True)
class ImportState:
    """One import: its row, and the sum of its finished parts."""

    row: Import
    counts: ImportCounts


class Imports:
    """The imports, as one transaction sees them."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, import_id: UUID, source: Source) -> None:
        """Insert an import of which nothing is staged yet."""
        self._session.add(Import(id=import_id, source=source))
        await self._session.flush()

    async def stage(self, import_id: UUID, table: Table) -> int:
        """Insert an import and stage a file's rows; return how many.

        Raises:
            TooManyRows: as `Table.rows`.
        """
        await self.add(import_id, "upload")
        staged = rejected = 0
        async with aclosing(_ahead(_pieces(import_id, table))) as pieces:
            async for piece in pieces:
                await copy_rows(self._session, ImportRow.__tablename__, _STAGED, _in_turns(piece))
                staged += len(piece)
                rejected += sum(row[-1] is not None for row in piece)
        await self._session.execute(
            update(Import)
            .where(Import.id == import_id)
            .values(columns=list(table.columns), staged=staged, rejected=rejected)
        )
        return staged

    async def get_one(self, import_id: UUID) -> ImportState:
        """Return an import's state, as of one moment.

        Raises:
            RowNotFound: there is no such import.
        """
        sums = [_total(getattr(ImportPart, name)) for name in ImportCounts.model_fields]
        found = await self._session.execute(
            select(Import, *sums)
            .outerjoin(ImportPart, ImportPart.import_id == Import.id)
            .where(Import.id == import_id)
            .group_by(Import.id)
        )
        state = found.one_or_none()
        if state is None:
            raise RowNotFound("import", import_id)
        row, *totals = state
        counts = ImportCounts(**dict(zip(ImportCounts.model_fields, totals, strict=True)))
        return ImportState(row=row, counts=counts)

    async def get_rejected(self, import_id: UUID, *, limit: int, cursor: str | None) -> Page[ImportRow]:
        """Return the rows of an import that are rejected so far, in the file's order, page by page.

        Raises:
            CursorError: `cursor` is none of this list.
        """
        rows = select(ImportRow).where(ImportRow.import_id == import_id, ImportRow.error.is_not(None))
        order = Order(columns=(ImportRow.position,), place=_POSITION)
        listed = fingerprint(ImportRow.__tablename__, "position", str(import_id))
        return await read_page(self._session, rows, order, listed, limit=limit, cursor=cursor)

    async def delete(self, import_id: UUID) -> None:
        """Delete an import and what was staged for it; nothing if there is none."""
        staged = await self._session.scalar(select(Import.staged).where(Import.id == import_id))
        # In pieces: the cascade would be one statement, whose time is short.
        for first in range(0, staged or 0, _PIECE_ROWS):
            piece = ImportRow.position.between(first, first + _PIECE_ROWS - 1)
            await self._session.execute(delete(ImportRow).where(ImportRow.import_id == import_id, piece))
        await self._session.execute(delete(Import).where(Import.id == import_id))


def _total(column: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


async def _pieces(import_id: UUID, table: Table) -> AsyncIterator[list[_StagedRow]]:
    """Yield a file's rows in pieces, as they are staged."""
    key_column = list(table.columns).index("geonameid")
    position = 0
    piece: list[_StagedRow] = []
    characters = 0
    async for line, fields, error in table.rows():
        key = parse_geonameid(fields[key_column]) if fields is not None else None
        piece.append((import_id, position, line, key, fields, error))
        position += 1
        characters += sum(map(len, fields or ()))
        if len(piece) == _PIECE_ROWS or characters > _PIECE_CHARACTERS:
            yield piece
            piece = []
            characters = 0
    yield piece


async def _ahead(pieces: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Yield the same pieces; while one is worked on, the next one is being made."""
    following = asyncio.ensure_future(anext(pieces, None))
    try:
        while (piece := await following) is not None:
            following = asyncio.ensure_future(anext(pieces, None))
            yield piece
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _in_turns(piece: Sequence[_StagedRow]) -> AsyncIterator[_StagedRow]:
    """Yield a piece's rows, and let others have their turn meanwhile."""
    for number, row in enumerate(piece):
        if number % _ROWS_AT_A_TIME == 0:
            await asyncio.sleep(0)
        yield row
