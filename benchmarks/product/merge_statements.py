"""Prints, as JSON, the SQL with which project-worker merges cities: what `psql \\copy` is followed by as well.

How it works: the worker's own code runs, on a session that writes down what it is given instead of sending it.
Started in the worker's environment and folder; when that code changes, so does what this prints.

What belongs here: that program.
"""

import asyncio
import json
from typing import Any

from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from project_database.tables import City
from worker.database.merging import Merge
from worker.domain.city_rows import CityRow


class _Written(Exception):  # noqa: N818  # not an error: there is no answer to go on with
    """A statement was written down."""


class _Session:
    """Stands in for the session, and for its connection."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    async def connection(self) -> "_Session":
        return self

    async def run_sync(self, create: Any) -> None:
        table = create.__self__  # `Table.create` of the temporary table
        self.said |= {"incoming": table.name, "table": _sql(CreateTable(table))}

    async def execute(self, statement: Any) -> None:
        self.said["merge"] = _sql(statement)
        raise _Written


def _sql(statement: Any) -> str:
    compiled = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    return str(compiled).strip()


async def _statements() -> dict[str, str]:
    session: Any = _Session()
    merge = Merge(session, City, CityRow._fields)
    await merge.begin()
    try:
        await merge.merge(read=0, accepted=0)
    except _Written:
        return dict(session.said)
    raise AssertionError("the merge has sent no statement")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_statements())))
