"""Countries' statistics: the real task on a real database, its effect once for each task id."""

import asyncio
from typing import Any
from uuid import uuid4

import database
import pytest
from sqlalchemy import text
from worker_process import RunningWorker, wait_until

from project_contracts.countries import COUNTRY_STATISTICS
from project_database.sessions import Database
from worker.database.inbox import Inbox
from worker.database.statistics import Statistics


@pytest.fixture(autouse=True)
def two_countries(clean_tables: None) -> None:
    database.run(
        "INSERT INTO countries (geonameid, code, code3, numeric_code, name, continent) "
        "VALUES (3017382, 'FR', 'FRA', 250, 'France', 'EU'), (2921044, 'DE', 'DEU', 276, 'Germany', 'EU')"
    )
    # The larger one of two equals is the one that the API lists first.
    for geonameid, code, population in ((1, "FR", 10), (2, "FR", 30), (3, "FR", 30), (4, "DE", 7)):
        add_city(geonameid, code, population)


def add_city(geonameid: int, code: str, population: int) -> None:
    database.run(
        "INSERT INTO cities (geonameid, name, country_code, latitude, longitude, population, timezone) "
        "VALUES ($1, 'a city', $2, 1, 2, $3, 'Europe/Paris')",
        geonameid,
        code,
        population,
    )


def stored() -> dict[str, list[Any]]:
    columns = "cities, population, largest_city, refreshes"
    rows = database.run(f"SELECT country_code, {columns} FROM country_statistics")  # noqa: S608
    return {code: values for code, *values in rows}


def test_it_counts_a_countrys_cities(worker: RunningWorker) -> None:
    assert worker.send(COUNTRY_STATISTICS, country_code="FR").get(timeout=10) == {
        "country_code": "FR",
        "cities": 3,
        "population": 70,
        "largest_city": 3,
    }
    assert stored() == {"FR": [3, 70, 3, 1]}
    database.run("DELETE FROM cities WHERE country_code = 'FR'")
    assert worker.send(COUNTRY_STATISTICS, country_code="FR").get(timeout=10)["largest_city"] is None
    assert stored() == {"FR": [0, 0, None, 2]}


def test_a_country_that_was_deleted(worker: RunningWorker) -> None:
    with pytest.raises(Exception, match="there is no country NO") as raised:
        worker.send(COUNTRY_STATISTICS, country_code="NO").get(timeout=10)
    assert type(raised.value).__name__ == "UnknownCountry"


def test_a_second_run_has_no_effect(worker: RunningWorker) -> None:
    first = worker.send(COUNTRY_STATISTICS, country_code="FR")
    result = first.get(timeout=10)
    # Redis has lost the result: the worker does not know that the task has ended.
    first.forget()
    add_city(5, "FR", 1)
    signature = worker.signature(COUNTRY_STATISTICS, country_code="FR")
    assert signature.apply_async(task_id=first.id).get(timeout=10) == result
    assert stored() == {"FR": [3, 70, 3, 1]}


@pytest.mark.parametrize("first_is_committed", [True, False])
def test_two_runs_at_the_same_time_have_one_effect(first_is_committed: bool) -> None:
    task_id = str(uuid4())

    async def run_both(opened: Database) -> bool:
        async def second_run() -> bool:
            async with opened.transaction() as session:
                return await Inbox(session).is_first_run(task_id)

        async with opened.transaction() as session:
            assert await Inbox(session).is_first_run(task_id)
            second = asyncio.create_task(second_run())
            await until_one_waits()
            if not first_is_committed:
                await session.rollback()
        return await second

    assert database.work(run_both) is not first_is_committed


def test_refreshes_of_a_country_take_turns() -> None:
    async def another_comes_first(opened: Database) -> None:
        async with opened.transaction() as session:
            await session.execute(text("SELECT FROM countries WHERE code = 'FR' FOR NO KEY UPDATE"))
            refreshing = asyncio.create_task(refreshed(opened))
            await until_one_waits()
            # Who writes a city does not wait; what is committed before its turn is counted.
            await asyncio.to_thread(add_city, 5, "FR", 100)
        await refreshing

    database.work(another_comes_first)
    assert stored()["FR"] == [4, 170, 5, 1]


def test_the_largest_city_is_deleted_meanwhile() -> None:
    database.work(refreshed)

    async def delete_meanwhile(opened: Database) -> None:
        async with opened.transaction() as session:
            await session.execute(text("SELECT FROM cities WHERE geonameid = 3 FOR UPDATE"))
            refreshing = asyncio.create_task(refreshed(opened))
            await until_one_waits()
            await session.execute(text("DELETE FROM cities WHERE geonameid = 3"))
        await refreshing

    database.work(delete_meanwhile)
    # No deadlock; what it adds up to is the business of the deletion's own refresh.
    assert stored()["FR"][2:] == [2, 2]


async def until_one_waits() -> None:
    await asyncio.to_thread(wait_until, lambda: database.waiting() > 0)


def test_all_countries_at_once() -> None:
    database.work(refreshed)
    assert stored() == {"FR": [3, 70, 3, 1], "DE": [1, 7, 4, 1]}


async def refreshed(opened: Database) -> None:
    async with opened.transaction() as session:
        await Statistics(session).refresh_all()
