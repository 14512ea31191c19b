"""Contracts of the import of cities: stage, load the parts side by side, finish.

How it works: rows do not travel in messages. They wait in the table `import_rows`; a part's task carries which
share of them it loads: part k of n is the rows from `staged * k // n` up to, not including,
`staged * (k + 1) // n`, by position. The import's id is its workflow's.

What belongs here: names, models, and what a file looks like (`COLUMNS`). Reading files is the API's
(`app/core/records.py`), loading them the worker's.
"""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from project_contracts.contract import Payload, Result, TaskContract
from project_contracts.queues import PROJECT_WORKER

REQUIRED_COLUMNS = ("geonameid", "name", "country_code", "latitude", "longitude", "timezone")
OPTIONAL_COLUMNS = ("alternate_names", "admin1_code", "population")
COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
"""A file's header names these, in any order; others are refused. `alternate_names` are separated by `|`."""

ROWS_PER_PART = 10_000
"""How many rows a part has at most, where their number is known beforehand."""

MAX_PARTS = 1000
"""As many tasks as a workflow may have."""

GEONAMES_PARTS = 24
"""Into how many parts the GeoNames set (235,000 cities) is split."""

Count = Annotated[int, Field(ge=0)]


class StageGeonamesPayload(Payload):
    """Which import."""

    import_id: Annotated[UUID, Field(strict=False)]


class LoadPartPayload(Payload):
    """Which share of the staged rows: part `part` of `parts`, counted from 0."""

    import_id: Annotated[UUID, Field(strict=False)]
    part: Annotated[int, Field(ge=0, lt=MAX_PARTS)]
    parts: Annotated[int, Field(ge=1, le=MAX_PARTS)]


class FinishImportPayload(Payload):
    """Which import."""

    import_id: Annotated[UUID, Field(strict=False)]


class ImportCounts(Result):
    """What became of rows: `read` is the sum of the others."""

    read: Count
    inserted: Count
    updated: Count
    unchanged: Count
    rejected: Count


class Staged(Result):
    """What was staged: so many cities wait, countries are loaded already."""

    cities: Count
    countries: ImportCounts


class ImportReport(Result):
    """An import's end: its cities, and its countries where the source brings them."""

    cities: ImportCounts
    countries: ImportCounts | None


STAGE_GEONAMES = TaskContract(
    name="project-worker.stage_geonames", queue=PROJECT_WORKER, payload=StageGeonamesPayload, result=Staged
)

LOAD_PART = TaskContract(
    name="project-worker.load_part", queue=PROJECT_WORKER, payload=LoadPartPayload, result=ImportCounts
)

FINISH_IMPORT = TaskContract(
    name="project-worker.finish_import", queue=PROJECT_WORKER, payload=FinishImportPayload, result=ImportReport
)
