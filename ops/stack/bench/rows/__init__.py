"""The rows, in the order in which they are measured and shown.

What belongs here: the table of rows. A new row is a module and an entry.
"""

from stack.bench.row import Row
from stack.bench.rows import (
    backlog,
    crud,
    enqueue,
    http,
    imports,
    observability,
    outbox,
    pages,
    round_trip,
    waiters,
    workers,
    workflows,
)
from stack.errors import UsageError

ROWS: tuple[Row, ...] = (
    enqueue.ROW,
    round_trip.ROW,
    waiters.ROW,
    http.ROW,
    workflows.ROW,
    backlog.ROW,
    workers.ROW,
    imports.ROW,
    crud.ROW,
    pages.ROW,
    outbox.ROW,
    observability.ROW,
)


def by_name(names: list[str]) -> list[Row]:
    """Return the rows with these names, in the table's order; all of them when none is named.

    Raises:
        UsageError: There is no row of a name; lists what there is.
    """
    known = [row.name for row in ROWS]
    if unknown := sorted(set(names).difference(known)):
        raise UsageError(f"there is no row {', '.join(unknown)}", hint=f"rows: {', '.join(known)}")
    return [row for row in ROWS if not names or row.name in names]
