"""The import of cities: real worker processes on a real database, staged rows as the API stages them."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import database
import pytest
from celery import chord
from celery.result import AsyncResult
from sqlalchemy import text
from worker_process import IMPORT_ROOT, RunningWorker, running_worker, wait_until

from project_contracts.imports import COLUMNS, FINISH_IMPORT, LOAD_PART, ImportCounts, ImportReport, Staged
from project_contracts.places import parse_geonameid
from project_database.errors import TransactionConflict
from project_database.sessions import Database, copy_rows
from project_database.tables import Import
from worker.database import importing
from worker.database.imports import Imports
from worker.domain.geonames_rows import read_city_fields

COMMAND = "-A tasks:app worker --pool prefork -Q project-worker --concurrency=2 -n imports@%h"

Row = Sequence[str]


@pytest.fixture(scope="module")
def importer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    """A worker with two children, which load parts side by side."""
    with running_worker(tmp_path_factory.mktemp("importer"), COMMAND, IMPORT_ROOT) as running:
        yield running


@pytest.fixture(autouse=True)
def two_countries(clean_tables: None) -> None:
    database.run(
        "INSERT INTO countries (geonameid, code, code3, numeric_code, name, continent) "
        "VALUES (3017382, 'FR', 'FRA', 250, 'France', 'EU'), (2921044, 'DE', 'DEU', 276, 'Germany', 'EU')"
    )


def city(geonameid: int | str, **fields: str) -> Row:
    """Return a row of a file whose header is `COLUMNS`."""
    city = dict.fromkeys(COLUMNS, "") | {
        "geonameid": str(geonameid),
        "name": f"City {geonameid}",
        "country_code": "FR",
        "latitude": "48.85",
        "longitude": "2.35",
        "timezone": "Europe/Paris",
        "population": "1000",
    }
    return [(city | fields)[column] for column in COLUMNS]


def stage(rows: Sequence[Row]) -> UUID:
    """Stage rows as the API does for an upload whose header is on line 1."""
    import_id = uuid4()

    async def write(of: Database) -> None:
        async with of.transaction() as session:
            session.add(Import(id=import_id, source="upload", columns=list(COLUMNS), staged=len(rows)))
            await session.flush()
            await copy_rows(
                session,
                "import_rows",
                ("import_id", "position", "line", "key", "fields"),
                [
                    (import_id, position, position + 2, parse_geonameid(row[0]), row)
                    for position, row in enumerate(rows)
                ],
            )

    database.work(write)
    return import_id


def start(worker: RunningWorker, import_id: UUID, *, parts: int) -> AsyncResult[Any]:
    """Send the workflow as the API does."""
    loads = [
        worker.signature(LOAD_PART, import_id=str(import_id), part=part, parts=parts).set(immutable=True)
        for part in range(parts)
    ]
    finish = worker.signature(FINISH_IMPORT, import_id=str(import_id)).set(immutable=True)
    return chord(loads, finish, app=worker.client).apply_async()


def load(worker: RunningWorker, rows: Sequence[Row], *, parts: int = 3) -> tuple[UUID, ImportCounts]:
    """Import a file; return its id, and what became of its rows."""
    import_id = stage(rows)
    report = ImportReport.model_validate(start(worker, import_id, parts=parts).get(timeout=30))
    assert report.countries is None
    return import_id, report.cities


def counts(**numbers: int) -> ImportCounts:
    return ImportCounts.model_validate(dict.fromkeys(ImportCounts.model_fields, 0) | numbers)


def errors(import_id: UUID) -> dict[int, str]:
    """Return what is left of an import's rows: why they were rejected, by line."""
    rows = database.run("SELECT line, error FROM import_rows WHERE import_id = $1 ORDER BY line", import_id)
    return {row["line"]: row["error"] for row in rows}


def versions() -> dict[int, int]:
    return {row["geonameid"]: row["version"] for row in database.run("SELECT geonameid, version FROM cities")}


def statistics() -> list[tuple[object, ...]]:
    """Return what each country's cities are said to add up to."""
    rows = database.run(
        "SELECT country_code, cities, population, largest_city FROM country_statistics ORDER BY country_code"
    )
    return [tuple(row) for row in rows]


def refreshes() -> dict[str, int]:
    rows = database.run("SELECT country_code, refreshes FROM country_statistics")
    return {row["country_code"]: row["refreshes"] for row in rows}


def test_a_file_is_loaded_and_loaded_again(importer: RunningWorker) -> None:
    rows = [city(number) for number in range(1, 100)]
    rows.append(
        city(
            100,
            name=" Köln ",
            country_code="DE",
            latitude="50.93333",
            longitude="-6.95",
            timezone="Europe/Berlin",
            alternate_names="Cologne|Colonia||科隆",
            admin1_code="07",
            population="",
        )
    )
    first, loaded = load(importer, rows)
    assert loaded == counts(read=100, inserted=100)
    (cologne,) = database.run("SELECT * FROM cities WHERE geonameid = 100")
    assert dict(cologne) | {"created_at": 0, "updated_at": 0} == {
        "geonameid": 100,
        "name": "Köln",
        "alternate_names": ["Cologne", "Colonia", "科隆"],
        "country_code": "DE",
        "admin1_code": "07",
        "latitude": 50.93333,
        "longitude": -6.95,
        "population": 0,
        "timezone": "Europe/Berlin",
        "search_name": "koln",
        "version": 1,
        "created_at": 0,
        "updated_at": 0,
    }
    (done,) = database.run("SELECT result, finished_at FROM imports WHERE id = $1", first)
    assert done["finished_at"] is not None
    assert ImportReport.model_validate_json(done["result"]).cities == loaded
    assert errors(first) == {}  # the rows have served

    assert load(importer, rows)[1] == counts(read=100, unchanged=100)
    assert set(versions().values()) == {1}

    rows[6] = city(7, population="1001")
    rows.append(city(101))
    assert load(importer, rows)[1] == counts(read=101, inserted=1, updated=1, unchanged=99)
    assert [number for number, version in versions().items() if version == 2] == [7]

    assert statistics() == [("DE", 1, 0, 100), ("FR", 100, 100_001, 7)]


def test_bad_rows_are_reported_and_the_others_loaded(importer: RunningWorker) -> None:
    rows = [
        city(1),
        city(2, population="12,000"),
        city(1, name="Once more"),
        city(3),
        city(4, country_code="ZZ"),
        city("four", latitude="91"),
        city(5),
        city(2),
        city(3, name="And once more"),
    ]
    import_id, loaded = load(importer, rows, parts=4)
    assert loaded == counts(read=9, inserted=3, rejected=6)
    assert [(line, error.split(":")[0]) for line, error in errors(import_id).items()] == [
        (3, "population"),
        (4, "geonameid"),
        (6, "country_code"),
        (7, "geonameid"),
        (9, "geonameid"),
        (10, "geonameid"),
    ]
    told = errors(import_id)
    assert told[3].startswith("population: '12,000' is not a whole number")
    assert "line 2 has the same" in told[4]
    assert "there is no country ZZ" in told[6]
    assert "; latitude: '91' is not" in told[7]
    assert "line 3 has the same" in told[9]  # also where the first one was rejected itself
    assert "line 5 has the same" in told[10]  # in another part
    names = database.run("SELECT name FROM cities ORDER BY geonameid")
    assert [row["name"] for row in names] == ["City 1", "City 3", "City 5"]


def test_what_was_rejected_while_staging_stays_so(importer: RunningWorker) -> None:
    import_id = stage([city(1), city(2), city(3, country_code="ZZ"), city(4, country_code="ZZ")])
    database.run("UPDATE import_rows SET key = NULL, fields = NULL, error = 'too long' WHERE position = 1")
    database.run("UPDATE imports SET rejected = 1")
    report = ImportReport.model_validate(start(importer, import_id, parts=2).get(timeout=30))
    assert report.cities == counts(read=4, inserted=1, rejected=3)
    told = errors(import_id)
    assert list(told) == [3, 4, 5]
    assert told[3] == "too long"
    # Counted where it was rejected, and once.
    assert database.run("SELECT rejected FROM imports")[0]["rejected"] == 3


def test_steps_that_run_again_change_nothing(importer: RunningWorker) -> None:
    import_id, loaded = load(importer, [city(1), city(2), city(2)], parts=2)
    database.run("UPDATE cities SET name = 'Changed since'")
    before = refreshes()
    for part, expected in ((0, counts(read=1, inserted=1)), (1, counts(read=2, inserted=1, rejected=1))):
        again = importer.send(LOAD_PART, import_id=str(import_id), part=part, parts=2).get(timeout=10)
        assert ImportCounts.model_validate(again) == expected
    report = ImportReport.model_validate(importer.send(FINISH_IMPORT, import_id=str(import_id)).get(timeout=10))
    assert report.cities == loaded == counts(read=3, inserted=2, rejected=1)
    assert {row["name"] for row in database.run("SELECT name FROM cities")} == {"Changed since"}
    assert refreshes() == before


def test_statistics_are_right_after_each_part(importer: RunningWorker) -> None:
    """No other may follow: the import is cancelled, or fails."""

    def load_one(*rows: Row) -> None:
        importer.send(LOAD_PART, import_id=str(stage(rows)), part=0, parts=1).get(timeout=10)

    load_one(city(1), city(2, population="5"))
    assert statistics() == [("FR", 2, 1005, 1)]
    load_one(city(1, country_code="DE"))
    assert statistics() == [("DE", 1, 1000, 1), ("FR", 1, 5, 2)]
    load_one(city(1, country_code="DE"))
    assert refreshes() == {"DE": 1, "FR": 2}  # nothing has changed


def test_an_import_with_parts_missing_is_no_success(importer: RunningWorker) -> None:
    import_id = stage([city(1), city(2)])
    importer.send(LOAD_PART, import_id=str(import_id), part=0, parts=2).get(timeout=10)
    with pytest.raises(Exception, match=f"1 of the 2 rows of import {import_id} were loaded"):
        importer.send(FINISH_IMPORT, import_id=str(import_id)).get(timeout=10)
    with pytest.raises(Exception, match="there is no import"):
        importer.send(FINISH_IMPORT, import_id=str(uuid4())).get(timeout=10)


def test_children_killed_in_their_parts_are_made_good(importer: RunningWorker) -> None:
    """Both parts wait for the test's lock when their children die. Their rows are read and judged by then."""
    import_id = stage([city(number, population=str(-(number == 3))) for number in range(2000)])
    with database.holding("LOCK TABLE cities IN SHARE MODE"):
        workflow = start(importer, import_id, parts=2)
        wait_until(lambda: database.waiting() == 2)
        for child in children(importer.process):
            os.kill(child, signal.SIGKILL)
    report = ImportReport.model_validate(workflow.get(timeout=60))
    assert report.cities == counts(read=2000, inserted=1998, rejected=2)
    assert sorted(errors(import_id)) == [2, 5]
    assert sorted(versions()) == [1, 2, *range(4, 2000)]


def test_two_imports_of_one_file_at_the_same_time(importer: RunningWorker) -> None:
    """Each row is inserted by one and unchanged for the other, and neither has to be repeated."""
    rows = [city(number) for number in range(4000)][1:]
    imports = [
        stage(rows),
        stage(rows[::-1]),
    ]  # in another order: they would deadlock, were it not for the merge's
    with database.holding("LOCK TABLE cities IN SHARE MODE"):
        workflows = [start(importer, import_id, parts=1) for import_id in imports]
        wait_until(lambda: database.waiting() == 2)
    reports = [ImportReport.model_validate(workflow.get(timeout=30)).cities for workflow in workflows]
    assert [report.read for report in reports] == [3999, 3999]
    assert sum(report.inserted for report in reports) == 3999
    assert sum(report.unchanged for report in reports) == 3999
    assert versions() == dict.fromkeys(range(1, 4000), 1)
    assert "TransactionConflict" not in importer.log.read_text()


def test_keys_are_never_looked_up_by_position() -> None:
    """Not even where nothing else is left: at times PostgreSQL's statistics make that look as cheap."""
    import_id = stage([city(number) for number in range(1, 501)])
    # In this transaction: known without delay, and nobody else's.
    read_by_position = text("SELECT pg_stat_get_xact_tuples_returned(CAST('pk_import_rows' AS regclass))")

    async def read_without_the_index(of: Database) -> tuple[int, int]:
        async with of.transaction() as session:
            await session.execute(text("DROP INDEX ix_import_rows_key_import_id_position"))
            rows = await Imports(session).read_rows(import_id, 0, 500)
            read = await session.scalar(read_by_position)
            await session.rollback()
        return len(rows), int(read or 0)

    rows, read = database.work(read_without_the_index)
    assert rows == 500
    assert read <= 500


def test_geonames_is_staged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cities, as many as take two batches: all of them are loaded in the test of the whole stack."""
    few = importing.STAGING_BATCH + 10
    monkeypatch.setattr(importing, "read_city_fields", lambda: islice(read_city_fields(), few))
    import_id = uuid4()
    database.run("INSERT INTO imports (id, source) VALUES ($1, 'geonames')", import_id)
    # A client has taken a code for a country of his own, and written a name of his own.
    database.run("UPDATE countries SET geonameid = 1 WHERE code = 'DE'")
    database.run("UPDATE countries SET capital = 'Vichy' WHERE code = 'FR'")

    async def stage_geonames(of: Database) -> Staged:
        async with of.transaction() as session:
            return await importing.stage_geonames(session, import_id)

    staged = database.work(stage_geonames)
    assert staged.cities == few
    assert staged.countries == counts(read=252, inserted=250, updated=1, rejected=1)
    assert database.work(stage_geonames) == staged
    rows = database.run("SELECT * FROM import_rows WHERE import_id = $1 ORDER BY position", import_id)
    assert [row["position"] for row in rows] == list(range(few))
    assert [row["fields"] for row in rows] == list(islice(read_city_fields(), few))
    assert all(row["line"] == row["position"] + 1 and str(row["key"]) == row["fields"][0] for row in rows)
    (this,) = database.run("SELECT * FROM imports WHERE id = $1", import_id)
    assert (this["columns"], this["staged"]) == (list(COLUMNS), few)
    (france,) = database.run("SELECT capital, version, languages FROM countries WHERE code = 'FR'")
    assert (france["capital"], france["version"], france["languages"][0]) == ("Paris", 2, "fr-FR")
    (germany,) = database.run("SELECT geonameid, version FROM countries WHERE code = 'DE'")
    assert (germany["geonameid"], germany["version"]) == (1, 1)


def test_a_country_with_cities_keeps_the_code_that_a_client_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "read_city_fields", lambda: iter(()))
    database.run("UPDATE countries SET code = 'FX' WHERE code = 'FR'")
    database.run("UPDATE countries SET code = 'DD' WHERE code = 'DE'")
    database.run(
        "INSERT INTO cities (geonameid, name, country_code, latitude, longitude, timezone) "
        "VALUES (1, 'Paris', 'FX', 48, 2, 'Europe/Paris')"
    )
    import_id = uuid4()
    database.run("INSERT INTO imports (id, source) VALUES ($1, 'geonames')", import_id)

    async def stage_geonames(of: Database) -> Staged:
        async with of.transaction() as session:
            return await importing.stage_geonames(session, import_id)

    assert database.work(stage_geonames).countries == counts(read=252, inserted=250, updated=1, rejected=1)
    rows = database.run("SELECT code FROM countries WHERE geonameid IN (3017382, 2921044) ORDER BY code")
    assert [row["code"] for row in rows] == ["DE", "FX"]


def test_a_code_that_a_client_takes_meanwhile_makes_staging_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "read_city_fields", lambda: iter(()))
    import_id = uuid4()
    database.run("INSERT INTO imports (id, source) VALUES ($1, 'geonames')", import_id)

    async def stage_geonames(of: Database) -> Staged:
        async with of.transaction() as session:
            return await importing.stage_geonames(session, import_id)

    async def client_comes_first(of: Database) -> None:
        async with of.transaction() as session:
            await session.execute(
                text(
                    "INSERT INTO countries (geonameid, code, code3, numeric_code, name, continent) "
                    "VALUES (1, 'IT', 'ITA', 380, 'His own', 'EU')"
                )
            )
            staging = asyncio.create_task(stage_geonames(of))
            await asyncio.to_thread(wait_until, lambda: database.waiting() > 0)
        await staging

    with pytest.raises(TransactionConflict):
        database.work(client_comes_first)
    assert database.work(stage_geonames).countries == counts(read=252, inserted=249, updated=2, rejected=1)


def children(worker: "subprocess.Popen[bytes]") -> list[int]:
    """Return the process ids of a worker's pool."""
    file = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    return [int(pid) for pid in file.read_text().split()]
