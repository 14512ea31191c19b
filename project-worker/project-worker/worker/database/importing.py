"""The steps of an import, each the work of one transaction: stage, load a part, finish.

How it works: a step that has been done returns what it returned then, so a task that runs twice does no harm.
Rows pass through a step in batches: its memory does not grow with the file, and between two batches it hears that
it is cancelled or out of time. Nothing of it is seen until it is committed. What is computed from cities is
refreshed with them, by each part: the import may be cancelled, or fail, before it is finished.

What belongs here: the order of things. Queries are in the repositories, what a row means in `worker.domain`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from project_contracts.imports import COLUMNS, ImportCounts, ImportReport, Staged
from project_contracts.places import parse_geonameid
from project_database.tables import City
from worker.database.countries import Countries
from worker.database.imports import Imports, NewRow, StagedRow
from worker.database.merging import Merge
from worker.database.statistics import Statistics
from worker.domain.city_rows import CityRow, RowError, city_parser, explain_duplicate
from worker.domain.geonames_rows import read_city_fields, read_countries

STAGING_BATCH = 5000
"""How many rows are staged at once."""

LOADING_BATCH = 1000
"""How many rows are read and judged at once; an uploaded one has up to 64 KiB."""


class IncompleteImport(Exception):  # noqa: N818  # the name that clients read
    """Rows of an import were not loaded; its counts would be wrong."""

    code = "incomplete_import"


async def stage_geonames(session: AsyncSession, import_id: UUID) -> Staged:
    """Load the countries of GeoNames, and stage its cities as rows of a file.

    Raises:
        UnknownImport: there is no such import.
    """
    imports = Imports(session)
    this = await imports.get_one(import_id, lock=True)
    if this.staged is None:
        countries = await Countries(session).merge(read_countries())
        rows = _as_rows(import_id)
        staged = 0
        while batch := list(islice(rows, STAGING_BATCH)):
            staged += await imports.stage(batch)
        this.columns, this.staged, this.countries = list(COLUMNS), staged, countries.model_dump()
    return Staged.model_validate({"cities": this.staged, "countries": this.countries})


def _as_rows(import_id: UUID) -> Iterator[NewRow]:
    """Number GeoNames' cities as the lines of a file without a header."""
    for position, fields in enumerate(read_city_fields()):
        yield NewRow(import_id, position, position + 1, parse_geonameid(fields[0]), fields)


async def load_part(session: AsyncSession, import_id: UUID, part: int, parts: int) -> ImportCounts:
    """Load part `part` of `parts` of the staged rows; rows that are no cities get to know why.

    Raises:
        UnknownImport: there is no such import.
        IncompleteImport: its rows are not staged.
    """
    imports = Imports(session)
    this = await imports.get_one(import_id)
    if this.columns is None or this.staged is None:
        raise IncompleteImport(f"the rows of import {import_id} are not staged: start a new import")
    if not await imports.begin_part(import_id, part):
        return await imports.get_part(import_id, part)
    first, end = this.staged * part // parts, this.staged * (part + 1) // parts
    parse = city_parser(this.columns, await Countries(session).keep_codes())
    merge = Merge(session, City, CityRow._fields)
    await merge.begin()
    accepted = rejected = 0
    for start in range(first, end, LOADING_BATCH):
        rows = await imports.read_rows(import_id, start, min(start + LOADING_BATCH, end))
        cities, errors = _judge(rows, parse)
        await imports.reject(import_id, errors)
        await merge.add(cities)
        accepted += len(cities)
        rejected += len(errors)
    countries = await merge.values(City.country_code.key)
    counts = await merge.merge(read=end - first, accepted=accepted)
    if counts.inserted or counts.updated:
        await Statistics(session).refresh(countries)
    await imports.end_part(import_id, part, counts, rejected=rejected)
    return counts


def _judge(
    rows: Sequence[StagedRow], parse: Callable[[Sequence[str]], CityRow]
) -> tuple[list[CityRow], dict[int, str]]:
    """Return the cities among the rows, and what is wrong with the others, by position."""
    cities, errors = [], {}
    for row in rows:
        if row.first_line is not None:
            errors[row.position] = explain_duplicate(row.first_line)
            continue
        try:
            cities.append(parse(row.fields))
        except RowError as error:
            errors[row.position] = str(error)
    return cities, errors


async def finish(session: AsyncSession, import_id: UUID) -> ImportReport:
    """Sum up an import's parts, keep of its rows the rejected ones, and refresh what is computed from cities.

    Raises:
        UnknownImport: there is no such import.
        IncompleteImport: not every staged row was loaded or rejected.
    """
    imports = Imports(session)
    this = await imports.get_one(import_id, lock=True)
    if this.result is None:
        cities = await imports.sum_parts(import_id)
        if cities.read != this.staged:
            raise IncompleteImport(
                f"{cities.read} of the {this.staged} rows of import {import_id} were loaded: start a new import"
            )
        await imports.delete_loaded_rows(import_id)
        # Of all: a country that no part has touched has statistics, too. Last, as others wait for its locks.
        await Statistics(session).refresh_all()
        report = ImportReport.model_validate({"cities": cities, "countries": this.countries})
        this.result, this.finished_at = report.model_dump(), func.now()
    return ImportReport.model_validate(this.result)
