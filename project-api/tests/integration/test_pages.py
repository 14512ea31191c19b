"""Lists page by page: nothing twice, nothing left out, and an index for every filter and every sort."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import database
import httpx
import pytest
from places import CITIES, COUNTRIES, FRANCE, GERMANY, city, created, refused
from processes import Api
from pydantic import BaseModel
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from app.api.schemas import cities as schemas
from app.api.schemas.countries import Country
from app.api.schemas.pages import Page
from app.database.cities import Cities
from app.database.countries import Countries
from app.database.keyset import fingerprint, write_cursor
from project_database.sessions import Query, open_database


@pytest.fixture
def http(api: Api, clean_tables: None) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=20) as client:
        created(client, COUNTRIES, GERMANY)
        created(client, COUNTRIES, FRANCE)
        yield client


def listed(http: httpx.Client, **query: Any) -> list[int]:
    """The keys of a whole list, page by page."""
    keys: list[int] = []
    while True:
        page = http.get(CITIES, params=query).json()
        keys += [item["geonameid"] for item in page["items"]]
        if page["cursor"] is None:
            return keys
        assert len(page["items"]) == query["limit"]
        assert len(keys) == len(set(keys))
        query["cursor"] = page["cursor"]


def test_equal_values_are_told_apart_by_their_key(http: httpx.Client) -> None:
    for key in (5, 3, 9, 1, 7):
        created(http, CITIES, city(key, name="A" if key > 4 else "B", population=2 if key < 9 else 1))
    for limit in (1, 2, 5):
        assert listed(http, limit=limit) == [1, 3, 5, 7, 9]
        assert listed(http, limit=limit, sort="-geonameid") == [9, 7, 5, 3, 1]
        assert listed(http, limit=limit, sort="name") == [5, 7, 9, 1, 3]
        assert listed(http, limit=limit, sort="-name") == [3, 1, 9, 7, 5]
        assert listed(http, limit=limit, sort="population") == [9, 1, 3, 5, 7]
        assert listed(http, limit=limit, sort="-population") == [7, 5, 3, 1, 9]
        assert listed(http, limit=limit, sort="name", min_population=2, max_population=2) == [5, 7, 1, 3]


def test_filters(http: httpx.Client) -> None:
    created(http, CITIES, city(1, population=10))
    created(http, CITIES, city(2, country_code="FR", timezone="Europe/Paris", population=20))
    created(http, CITIES, city(3, country_code="FR", population=30))
    assert listed(http, limit=9, country="FR") == [2, 3]
    assert listed(http, limit=9, timezone="Europe/Berlin") == [1, 3]
    assert listed(http, limit=9, timezone="Europe/Berlin", country="FR") == [3]
    assert listed(http, limit=9, min_population=20) == [2, 3]
    assert listed(http, limit=9, max_population=20) == [1, 2]
    assert listed(http, limit=9, min_population=21, max_population=29) == []
    for query, codes in (
        ({"code": "FR"}, ["FR"]),
        ({"continent": "EU", "sort": "name"}, ["FR", "DE"]),
        ({"continent": "AS"}, []),
        ({"min_population": 1}, ["DE"]),
        ({"max_population": 0}, ["FR"]),
    ):
        countries = http.get(COUNTRIES, params=query).json()["items"]
        assert [country["code"] for country in countries] == codes


def test_rows_that_come_and_go_move_no_other_row(http: httpx.Client) -> None:
    for key in range(10, 20):
        created(http, CITIES, city(key))
    page = http.get(CITIES, params={"limit": 4}).json()
    assert [item["geonameid"] for item in page["items"]] == [10, 11, 12, 13]
    created(http, CITIES, city(1))
    created(http, CITIES, city(50))
    http.delete(f"{CITIES}/13")
    http.delete(f"{CITIES}/14")
    assert listed(http, limit=3, cursor=page["cursor"]) == [15, 16, 17, 18, 19, 50]


def test_the_total_is_counted_when_asked_for(http: httpx.Client) -> None:
    for key in (1, 2, 3):
        created(http, CITIES, city(key, population=key))
    assert http.get(CITIES, params={"limit": 1}).json()["total"] is None
    assert http.get(CITIES, params={"limit": 1, "total": True}).json()["total"] == 3
    assert http.get(CITIES, params={"limit": 1, "total": True, "min_population": 2}).json()["total"] == 2
    assert http.get(CITIES, params={"total": True, "q": "city 3", "max_population": 2}).json()["total"] == 2


def test_a_cursor_is_good_for_its_own_query(http: httpx.Client) -> None:
    for key in (1, 2, 3):
        created(http, CITIES, city(key))
    query = {"sort": "name", "country": "DE", "limit": "1"}
    cursor = {"cursor": http.get(CITIES, params=query).json()["cursor"]}
    assert http.get(CITIES, params=query | cursor | {"limit": "2", "total": "true"}).status_code == 200
    for other in ({"sort": "-name"}, {"country": "FR"}, {"min_population": "0"}, {"q": "city"}):
        problem = refused(http.get(CITIES, params=query | cursor | other), 400)
        assert "cursor" in problem["detail"]
    refused(http.get(COUNTRIES, params={"sort": "name", "limit": "1"} | cursor), 400)


def test_answers_are_what_the_models_write(http: httpx.Client) -> None:
    odd = {"name": 'Zür\u2028"ich\\', "latitude": 1e-7, "longitude": -180, "admin1_code": None}
    created(http, CITIES, city(1, **odd, alternate_names=["a/b", "\x7f", "東京"], population=2**53 - 1))
    created(http, CITIES, city(2, alternate_names=[]))
    answers: list[tuple[str, dict[str, Any], type[BaseModel]]] = [
        (f"{CITIES}/1", {}, schemas.City),
        (CITIES, {"limit": 1, "total": True}, Page[schemas.City]),
        (CITIES, {"q": "city 2"}, Page[schemas.City]),
        (f"{COUNTRIES}/{GERMANY['geonameid']}", {}, Country),
        (COUNTRIES, {"sort": "-name"}, Page[Country]),
    ]
    for path, query, model in answers:
        answer = http.get(path, params=query)
        assert answer.headers["Content-Type"] == "application/json"
        document = model.model_validate_json(answer.content)
        assert answer.text == document.model_dump_json()
        assert document.model_fields_set == set(model.model_fields)


@pytest.fixture(scope="module")
def thousands(api: Api) -> None:
    """Some thousand cities."""
    database.empty_tables()
    database.run(
        "INSERT INTO countries (geonameid, code, code3, numeric_code, name, continent, population) "
        "SELECT i, chr(64 + i) || 'A', chr(64 + i) || 'AA', i, 'Country ' || i, 'EU', i "
        "FROM generate_series(1, 26) AS i"
    )
    database.run(
        "INSERT INTO cities (geonameid, name, alternate_names, country_code, latitude, longitude, population, "
        "timezone) SELECT i, 'City ' || i % 977, ARRAY['Alternate ' || i], "
        "CASE i % 100 WHEN 0 THEN 'AA' ELSE 'BA' END, i % 90, i % 180, i % 997, "
        "CASE i % 100 WHEN 1 THEN 'Asia/Tokyo' ELSE 'UTC' END "
        "FROM generate_series(1, 4000) AS i"
    )
    database.run("ANALYZE countries, cities")


@pytest.fixture
async def session(thousands: None) -> AsyncIterator[AsyncSession]:
    """A transaction whose plans avoid what reads or sorts a whole table.

    Where an index can do it, PostgreSQL takes the index now, although the table is small.
    """
    async with (
        open_database(database.url(), application_name="tests", timeout=5) as opened,
        opened.transaction() as session,
    ):
        connection = await session.connection()
        for avoided in ("seqscan", "sort", "incremental_sort"):
            await connection.exec_driver_sql(f"SET LOCAL enable_{avoided} = off")
        yield session


class InSession:
    """Reads in a session's transaction, with its settings."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def read(self, query: Query, values: Mapping[str, object] | None = None) -> Sequence[Any]:
        connection = await self._session.connection()
        return (await connection.exec_driver_sql(query.sql, tuple(query.arguments(values or {})))).all()


async def plan(session: AsyncSession, work: Any) -> tuple[set[str], set[str], str]:
    """Run `work`; return the kinds of nodes in its last statement's plan, its indexes, and its plan as a text."""
    statements: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, ___: object, ____: object) -> None:
        statements.append((statement, parameters))

    connection: Connection = (await session.connection()).sync_connection  # type: ignore[assignment]
    event.listen(connection, "before_cursor_execute", note)
    await work
    event.remove(connection, "before_cursor_execute", note)
    statement, parameters = statements[-1]
    explained = await (await session.connection()).exec_driver_sql(
        f"EXPLAIN (FORMAT JSON, COSTS OFF) {statement}", parameters
    )
    document = explained.scalar_one()
    text = document if isinstance(document, str) else json.dumps(document)
    nodes, indexes, pending = set(), set(), [json.loads(text)[0]["Plan"]]
    while pending:
        node = pending.pop()
        nodes.add(node["Node Type"])
        indexes |= {node["Index Name"]} if "Index Name" in node else set()
        pending += node.get("Plans", [])
    return nodes, indexes, text


PLACES: dict[str, tuple[object, ...]] = {"geonameid": (77,), "name": ("City 5", 77), "population": (5, 77)}
CITY_INDEXES = {
    "geonameid": "pk_cities",
    "name": "ix_cities_name_geonameid",
    "population": "ix_cities_population_geonameid",
}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["geonameid", "name", "population"])
@pytest.mark.parametrize(
    ("wanted", "indexes"),
    [
        ({}, CITY_INDEXES),
        ({"min_population": 5}, CITY_INDEXES),
        ({"max_population": 990}, CITY_INDEXES),
        (
            {"country": "AA"},
            {
                "geonameid": "ix_cities_country_code_geonameid",
                "name": "ix_cities_country_code_name_geonameid",
                "population": "ix_cities_country_code_population_geonameid",
            },
        ),
        (
            {"timezone": "Asia/Tokyo"},
            {
                "geonameid": "ix_cities_timezone_geonameid",
                "name": "ix_cities_timezone_name_geonameid",
                "population": "ix_cities_timezone_population_geonameid",
            },
        ),
    ],
)
async def test_an_index_gives_every_page_in_its_order(
    session: AsyncSession, wanted: dict[str, Any], indexes: dict[str, str], sort: str, descending: bool
) -> None:
    order = f"-{sort}" if descending else sort
    cursor = write_cursor(PLACES[sort], fingerprint("city", order, wanted))
    for where in (None, cursor):
        page = Cities(InSession(session)).get_page(wanted, sort=order, limit=20, cursor=where)
        nodes, used, text = await plan(session, page)
        assert (nodes, used) == ({"Limit", "Index Scan"}, {indexes[sort]}), text
    # The page begins at its place in the index: what is before it is not even looked at.
    assert "ROW(" in json.loads(text)[0]["Plan"]["Plans"][0]["Index Cond"] or sort == "geonameid"


@pytest.mark.parametrize("sort", ["geonameid", "name", "-population", "relevance"])
async def test_names_are_found_by_their_indexes(session: AsyncSession, sort: str) -> None:
    page = Cities(InSession(session)).get_page({"q": "alternate 77"}, sort=sort, limit=20, cursor=None)
    nodes, used, text = await plan(session, page)
    assert "Seq Scan" not in nodes, text
    assert used >= {"ix_cities_search_name", "ix_cities_search_alternates"}, text


# There are too few countries for more: any index finds one of them at once.
@pytest.mark.parametrize("sort", ["name", "-name", "population", "-population"])
async def test_an_index_gives_countries_in_their_order(session: AsyncSession, sort: str) -> None:
    page = Countries(InSession(session)).get_page({}, sort=sort, limit=20, cursor=None)
    nodes, used, text = await plan(session, page)
    assert (nodes, used) == ({"Limit", "Index Scan"}, {f"ix_countries_{sort.removeprefix('-')}_geonameid"}), text


async def test_the_nearest_cities_come_in_the_order_of_an_index(session: AsyncSession) -> None:
    nodes, used, text = await plan(session, Cities(InSession(session)).get_nearest(50, 10, limit=5, but=77))
    assert (nodes, used) == ({"Limit", "Index Scan"}, {"ix_cities_position"}), text
