"""The history: which tasks have ended lately, newest first, whoever sent them.

How it works: with every terminal state that they store, workers of `async_celery.worker` append an entry to one
stream in Redis, `task-history`, which keeps about `Policy.history_length` of them. An entry's id says when it was
stored (ms since 1970, and a number within the ms), so a span of time is a span of ids, and an id is a cursor:
what is appended meanwhile does not shift the pages that follow.

A filter is not an index: one page looks at `MAX_SCANNED` entries at most, a chunk at a time with the loop's turn
in between. A page may therefore hold less than was asked for, or nothing, and still name where to go on.

What belongs here: reading the history. Who writes it is `worker/backend.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from async_celery.errors import BadCursor
from async_celery.status import instant, task_state
from async_celery.types import Backend, HistoryRow, TaskState

MAX_SCANNED = 5000
"""How many entries are looked at for one page. It takes about 40 ms, none of it at one go."""

_CHUNK = 500
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime.fromtimestamp(0, UTC)
# Both parts are 64 bits; nineteen digits always fit.
_CURSOR = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """A task that has ended.

    `id` is the task's; `root_id` that of the workflow it was part of, None when it ran by itself. `error` is the
    class name of what it raised. `stored_at` is when the result was stored, by Redis' clock; the other times are
    of the last run, None where unknown. All are aware, in UTC.
    """

    id: str
    name: str | None
    state: TaskState
    queue: str | None
    worker: str | None
    attempts: int | None
    error: str | None
    root_id: str | None
    published_at: datetime | None
    received_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    stored_at: datetime


@dataclass(frozen=True, kw_only=True)
class HistoryPage:
    """Some of the history. `cursor` is where to go on, None at its end."""

    entries: tuple[HistoryEntry, ...]
    cursor: str | None


@dataclass(frozen=True, kw_only=True)
class HistoryFilter:
    """Which entries are wanted: None does not restrict. `until` itself is excluded."""

    name: str | None = None
    state: TaskState | None = None
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, fields: Mapping[str, str]) -> bool:
        """Return whether an entry is one of these, whatever its time."""
        return self.name in (None, fields.get("name")) and self.state in (None, fields.get("state"))


def id_parts(entry_id: str) -> tuple[int, int]:
    """Return an entry's ms since 1970 and its number within the ms: what ids are ordered by."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


async def read_page(backend: Backend, wanted: HistoryFilter, *, cursor: str | None, limit: int) -> HistoryPage:
    """Read one page.

    Args:
        backend: where from.
        wanted: which entries.
        cursor: where the page before ended; None for the newest.
        limit: how many entries it may hold.

    Raises:
        BadCursor: `cursor` is none.
        BackendError, Unsupported: as for `types.Backend.history`.
    """
    since = None if wanted.since is None else _first_id(wanted.since)
    ends = [] if wanted.until is None else [_first_id(wanted.until)]
    if cursor is not None:
        if not _CURSOR.fullmatch(cursor):
            raise BadCursor(cursor)
        ends.append(cursor)
    before = min(ends, key=id_parts, default=None)
    if before is not None and id_parts(before) == (0, 0):
        # Nothing is older; Redis calls the question an error.
        return HistoryPage(entries=(), cursor=None)
    # Without a filter every entry counts: one more than wanted tells whether there are others.
    chunk = _CHUNK if wanted.name or wanted.state else limit + 1
    entries: list[HistoryEntry] = []
    scanned = 0
    while scanned < MAX_SCANNED:
        rows = await backend.history(since=since, before=before, count=chunk)
        for row in rows:
            if len(entries) == limit:
                return HistoryPage(entries=tuple(entries), cursor=cursor)
            cursor = row[0]
            if wanted.takes(row[1]):
                entries.append(_entry(row))
        if len(rows) < chunk:
            return HistoryPage(entries=tuple(entries), cursor=None)
        scanned += len(rows)
        before = rows[-1][0]
    return HistoryPage(entries=tuple(entries), cursor=cursor)


def _entry(row: HistoryRow) -> HistoryEntry:
    id_, fields = row
    attempts = fields.get("attempts", "")
    return HistoryEntry(
        id=fields["id"],
        name=fields.get("name"),
        state=task_state(fields["state"]),
        queue=fields.get("queue"),
        worker=fields.get("worker"),
        attempts=int(attempts) if attempts else None,
        error=fields.get("error"),
        root_id=fields.get("root_id"),
        published_at=_time(fields.get("published")),
        received_at=_time(fields.get("received")),
        started_at=_time(fields.get("started")),
        finished_at=_time(fields.get("finished")),
        stored_at=_EPOCH + id_parts(id_)[0] * _MILLISECOND,
    )


def _time(seconds: str | None) -> datetime | None:
    # A producer may have sent milliseconds.
    return instant(float(seconds)) if seconds else None


def _first_id(time: datetime) -> str:
    """Return the first id that an entry of this time, or later, can have."""
    return f"{max(0, -(-(time - _EPOCH) // _MILLISECOND))}-0"
