"""Deletes what nobody needs any more, so that no table grows for ever.

How it works: every API process looks every ten minutes; an advisory lock lets one at a time work. It deletes in
batches, each in a transaction of its own: other transactions wait for none of them, and what is cut short goes on
at the next look. A batch looks at no more than its rows, which an index finds. Dead rows are PostgreSQL's
business (autovacuum).

What belongs here: a rule in `tidy` for each table that only grows, and the reason for its age.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Delete, and_, any_, delete, func, literal_column, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from app.core.config import Settings
from project_database.sessions import Database
from project_database.tables import Base, IdempotencyKey, Import, ImportRow, InboxEntry

logger = logging.getLogger("app.housekeeping")

INTERVAL = 600.0
"""s between two looks: what is deleted has been needless for hours, nobody waits for it."""

BATCH = 5000
"""Rows deleted in one transaction: tens of ms, far below any time-out."""

INBOX_AGE = timedelta(days=7)
"""A message is redelivered as long as its task may live; a dead letter may be replayed under its id by whoever
comes back to it, say, after a weekend."""

IDEMPOTENCY_AGE = timedelta(hours=24)
"""What clients are promised: a request may be repeated for a day."""

UNFINISHED_IMPORT_AGE = timedelta(hours=24)
"""Its tasks have ended or expired, and so have their results."""

IMPORT_AGE = timedelta(days=30)
"""A report, and the rows that were rejected, can be read for so long."""

_LOCK = 0x686F757365  # "house" in ASCII: advisory locks have numbers for names

_LAST_POSITION = select(func.max(ImportRow.position)).where(ImportRow.import_id == Import.id).scalar_subquery()
"""Of an import's rows; None without any. A scalar subquery: the key answers it, no plan reads all rows for it."""


async def tidy(database: Database, task_life: timedelta) -> Mapping[str, int]:
    """Delete what is old; return how many rows of which table. Nothing while another process is at it.

    A rule that fails is logged, and what it left waits for the next look; the others have their turn.

    Args:
        database: where.
        task_life: how long a task may live; what younger ones may still need is not old.
    """
    unfinished = and_(
        Import.finished_at.is_(None), _older_than(Import.created_at, max(UNFINISHED_IMPORT_AGE, task_life))
    )
    is_over = or_(unfinished, _older_than(Import.created_at, max(IMPORT_AGE, task_life)))
    is_done = _older_than(InboxEntry.created_at, max(INBOX_AGE, task_life))
    is_forgotten = _older_than(IdempotencyKey.created_at, IDEMPOTENCY_AGE)
    rules = (
        (InboxEntry, _delete(database, InboxEntry, is_done)),
        (IdempotencyKey, _delete(database, IdempotencyKey, is_forgotten)),
        (ImportRow, _delete_rows(database, is_over)),
        # When their rows have gone: those are found through it.
        (Import, _delete(database, Import, and_(is_over, _LAST_POSITION.is_(None)))),
    )
    deleted: Counter[str] = Counter()
    for table, batches in rules:
        try:
            async for count in batches:
                deleted[table.__tablename__] += count
        except Exception as error:  # whatever it was: the next look may go well
            logger.warning("tidying %s failed, again in %g s: %s", table.__tablename__, INTERVAL, error)
    return +deleted


async def _delete(database: Database, table: type[Base], is_old: ColumnElement[bool]) -> AsyncIterator[int]:
    """Delete a table's old rows; yield how many, batch by batch."""
    # Rows by their place: what was found is not looked up again, and no table needs a key of one column.
    place: ColumnElement[str] = literal_column(f"{table.__tablename__}.ctid")
    found = select(place).select_from(table).where(is_old).limit(BATCH).scalar_subquery()
    count = BATCH
    while count == BATCH:
        count = await _delete_batch(database, delete(table).where(place == any_(func.array(found))))
        yield count


async def _delete_rows(database: Database, is_over: ColumnElement[bool]) -> AsyncIterator[int]:
    """Delete the rows of imports, which are found first; yield how many, batch by batch."""
    async with database.reading() as session:
        imports = (await session.execute(select(Import.id, _LAST_POSITION).where(is_over))).all()
    for import_id, last in imports:
        for first in range(0, 0 if last is None else last + 1, BATCH):
            batch = ImportRow.position.between(first, first + BATCH - 1)
            yield await _delete_batch(database, delete(ImportRow).where(ImportRow.import_id == import_id, batch))


async def _delete_batch(database: Database, statement: Delete) -> int:
    """Delete some rows, none while another process is at it; return how many."""
    async with database.transaction() as session:
        if not await session.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
            return 0
        done: Any = await session.execute(statement, execution_options={"synchronize_session": False})
        return int(done.rowcount)


def _older_than(column: InstrumentedAttribute[Any], age: timedelta) -> ColumnElement[bool]:
    return column < func.now() - age


@contextlib.asynccontextmanager
async def open_housekeeping(database: Database, settings: Settings) -> AsyncIterator[None]:
    """Keep house meanwhile."""
    runs = settings.task_max_retries + 1
    task_life = timedelta(seconds=settings.task_deadline_seconds + runs * settings.task_time_limit_seconds)
    keeper = asyncio.create_task(_keep(database, task_life), name="housekeeping")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _keep(database: Database, task_life: timedelta) -> None:
    while True:
        if deleted := await tidy(database, task_life):
            logger.info("deleted what nobody needs any more: %s", dict(deleted))
        await asyncio.sleep(INTERVAL)
