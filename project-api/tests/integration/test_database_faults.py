"""PostgreSQL drops, freezes, deadlocks and locks under a real API: clients get a quick 503 and the pool survives.

Rows D1 to D6 of the fault matrix. What the API itself does with transactions is in `test_transactions.py`.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import database
import httpx
import pytest
from postgres_server import PostgresServer, running_postgres
from processes import Api, running_api, wait_until

FAULT_SCALE = float(os.environ.get("FAULT_SCALE", "0"))  # 1 for the full counts
ABORTS = round(60 + (5000 - 60) * FAULT_SCALE)
POOL = 3
ANSWER = 3.0  # s; the longest that a client waits for its 503
MULTIPLY = "/v1/project-worker/integer-multiplication/async"

ROWS = """
    INSERT INTO countries (geonameid, code, code3, numeric_code, name, continent)
    VALUES (1, 'FR', 'FRA', 250, 'France', 'EU'), (2, 'DE', 'DEU', 276, 'Germany', 'EU');
    INSERT INTO cities (geonameid, name, country_code, latitude, longitude, timezone)
    SELECT id, 'City ' || id, 'FR', 48, 2, 'Europe/Paris' FROM generate_series(1, 10) AS id
"""


async def insert_rows(**server: str) -> None:
    async with database.connected(**server) as connection:
        await connection.execute(ROWS)


@pytest.fixture(scope="module", autouse=True)
def nobody_elses_database() -> Iterator[None]:
    """Before the API is started: connections are counted, and other tests' APIs have some."""
    with database.own_database():
        yield


@pytest.fixture(scope="module")
def own_api(nobody_elses_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    log = tmp_path_factory.mktemp("faults") / "log"
    with running_api(log, DATABASE_POOL_SIZE=str(POOL)) as running:
        yield running


@pytest.fixture
async def http(own_api: Api, clean_tables: None) -> AsyncIterator[httpx.AsyncClient]:
    await insert_rows()
    async with httpx.AsyncClient(base_url=own_api.url, timeout=20) as client:
        yield client


async def connections(state: str = "%") -> int:
    """Count the pool's connections; the API's listener is not one of them."""
    rows = await database.fetch(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'project-api' "
        "AND state LIKE $1",
        state,
    )
    return len(rows)


async def terminate_all() -> None:
    """End every connection of the API, as a restart of PostgreSQL does."""
    await database.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'project-api%'"
    )


async def waiting_for_a_lock(count: int = 1) -> None:
    deadline = time.monotonic() + 10
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'project-api' AND datname = current_database() "
        "AND wait_event_type = 'Lock'"
    )
    while len(await database.fetch(query)) < count:
        assert time.monotonic() < deadline, f"{count} statements of the API wait for a lock"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def holding(statement: str) -> AsyncIterator[Any]:
    """Hold a statement's locks until the block ends."""
    async with database.connected() as connection, connection.transaction():
        await connection.execute("SET LOCAL deadlock_timeout = '30s'")  # who waits first is the victim: the API
        await connection.execute(statement)
        yield connection


async def timed(request: Awaitable[httpx.Response]) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    answer = await request
    return answer, time.monotonic() - started


def rename(http: httpx.AsyncClient, city: int, **fields: object) -> "asyncio.Task[httpx.Response]":
    patch = {"name": f"Renamed {time.monotonic_ns()}", **fields}
    return asyncio.create_task(_sent(http.patch(f"/v1/cities/{city}", json=patch)))


async def _sent(request: Awaitable[httpx.Response]) -> httpx.Response:
    return await request


def refused(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1


async def test_d1_terminated_connections_cost_one_request_each_at_most(http: httpx.AsyncClient) -> None:
    async with holding("SELECT 1 FROM cities WHERE geonameid <= 3 FOR UPDATE"):
        at_work = [rename(http, city) for city in range(1, POOL + 1)]
        await waiting_for_a_lock(POOL)
        assert await connections() == POOL
        await terminate_all()
        answers = await asyncio.gather(*at_work)
    for answer in answers:
        refused(answer)
    after = [(await http.get("/v1/cities/1")).status_code for _ in range(2 * POOL)]
    assert after == [200] * len(after)

    # At rest: the pool sees that they are closed, or the request that is given one does.
    await asyncio.gather(*(http.get("/v1/cities") for _ in range(POOL)))
    await terminate_all()
    after = [(await http.get("/v1/cities/1")).status_code for _ in range(2 * POOL)]
    print(f"D1: {POOL} terminated at work: {POOL} × 503, then 200; at rest: {after}")
    assert set(after) <= {200, 503}
    assert after.count(503) <= POOL
    assert (await http.get("/v1/cities/1")).status_code == 200


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


def test_d2_a_frozen_server_means_503_in_time_and_tasks_go_on(
    own_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert database.alembic("upgrade", "head", **own_postgres.settings).returncode == 0
    asyncio.run(insert_rows(**own_postgres.settings))
    log = tmp_path_factory.mktemp("frozen") / "log"
    with (
        running_api(log, DATABASE_POOL_SIZE=str(POOL), **own_postgres.settings) as api,
        httpx.Client(base_url=api.url, timeout=20) as http,
        ThreadPoolExecutor(8) as threads,
    ):
        reads = [threads.submit(http.get, f"/v1/cities/{city}") for city in range(1, 9)]
        assert {read.result().status_code for read in reads} == {200}
        slowest = 0.0
        with own_postgres.frozen():
            # The first meet connections that were fine, the next ones must make new ones.
            for _ in range(2):
                started = time.monotonic()
                requests = [threads.submit(http.get, f"/v1/cities/{city}") for city in range(1, 6)]
                requests += [threads.submit(http.patch, "/v1/cities/6", json={"name": "Frozen"})]
                requests += [threads.submit(http.get, "/health/ready")]
                task = threads.submit(http.post, MULTIPLY, json={"multiplicand": 6, "multiplier": 7})
                assert task.result().status_code == 202
                assert time.monotonic() - started < 1
                for request in requests:
                    refused(request.result())
                slowest = max(slowest, time.monotonic() - started)
        recovering = time.monotonic()
        wait_until(lambda: http.get("/v1/cities/1").status_code == 200, 10, "cities are served again")
        recovered = time.monotonic() - recovering
        assert http.get("/v1/cities/6").json()["name"] == "City 6"
    print(f"D2: frozen: 503 within {slowest:.2f} s, tasks 202; served again after {recovered:.2f} s")
    assert slowest < ANSWER


async def test_d3_an_exhausted_pool_is_503_within_a_second(http: httpx.AsyncClient) -> None:
    async with holding("SELECT 1 FROM cities WHERE geonameid <= 3 FOR UPDATE"):
        at_work = [rename(http, city) for city in range(1, POOL + 1)]
        await waiting_for_a_lock(POOL)
        answer, seconds = await timed(http.get("/v1/cities/9"))
        refused(answer)
    print(f"D3: 503 after {seconds:.2f} s")
    assert answer.json()["title"] == "Database busy"
    assert 0.9 < seconds < 1.5
    assert {task.status_code for task in await asyncio.gather(*at_work)} == {200}
    assert (await http.get("/v1/cities/9")).status_code == 200


async def test_d4_clients_that_leave_do_not_cost_connections(own_api: Api, http: httpx.AsyncClient) -> None:
    body = b'{"name": "Gone"}'
    request = (
        b"PATCH /v1/cities/1 HTTP/1.1\r\nHost: tests\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    most, sent = 0, 0
    while sent < ABORTS:
        async with holding("SELECT 1 FROM cities WHERE geonameid = 1 FOR UPDATE"):
            for number in range(60):
                with socket.create_connection(("127.0.0.1", own_api.port)) as client:
                    client.sendall(request)
                    if number < POOL:  # these are at work when their client leaves
                        await waiting_for_a_lock(number + 1)
                sent += 1
            most = max(most, await connections())
    assert (await http.get("/v1/cities/1")).status_code == 200
    await idle()
    most = max(most, await connections())
    print(f"D4: {sent} clients left mid-query: at most {most} connections, the pool has {POOL}")
    assert most <= POOL
    answers = await asyncio.gather(*(http.get("/v1/cities") for _ in range(4 * POOL)))
    assert {answer.status_code for answer in answers} == {200}


async def idle() -> None:
    """Wait until no connection of the pool is at work, or forgotten in a transaction."""
    deadline = time.monotonic() + 10
    while await connections() != await connections("idle"):
        assert time.monotonic() < deadline, "every connection of the pool is idle"
        await asyncio.sleep(0.05)


@pytest.fixture
def noted_messages() -> Iterator[None]:
    with database.noted_messages():
        yield


async def test_d5_a_deadlock_is_repeated_once_and_succeeds(noted_messages: None, http: httpx.AsyncClient) -> None:
    async with holding("SELECT 1 FROM countries WHERE code = 'DE' FOR UPDATE") as other:
        crossing = rename(http, 1, country_code="DE")  # has the city, waits for the country
        await waiting_for_a_lock()
        await other.execute("UPDATE cities SET population = 7 WHERE geonameid = 1")  # and the other way round
    answer = await crossing
    print(f"D5: deadlock: {answer.status_code}, version {answer.headers['etag']}")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["country_code"], answer.json()["population"]) == ("DE", 7)
    assert answer.json()["version"] == 2
    sent = await database.fetch("SELECT country_code FROM committed ORDER BY country_code")
    assert [row["country_code"] for row in sent] == ["DE", "FR"]  # the attempt that was undone has sent nothing


@pytest.mark.parametrize(("conflicts", "status"), [(1, 200), (2, 409)])
async def test_d5_a_second_conflict_is_the_clients(http: httpx.AsyncClient, conflicts: int, status: int) -> None:
    async with database.connected() as other:
        await other.execute(f"""
            CREATE SEQUENCE attempts;
            CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('attempts') <= {conflicts} THEN
                    RAISE 'could not serialize access' USING ERRCODE = 'serialization_failure';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER conflict BEFORE UPDATE ON cities FOR EACH ROW EXECUTE FUNCTION conflict()
        """)
        try:
            answer = await rename(http, 1, name="Wanted")
            attempts = await other.fetchval("SELECT last_value FROM attempts")
        finally:
            await other.execute("DROP FUNCTION conflict() CASCADE; DROP SEQUENCE attempts")
    assert answer.status_code == status, answer.text
    assert attempts == 2
    assert (await http.get("/v1/cities/1")).json()["name"] == ("Wanted" if status == 200 else "City 1")


async def test_d6_a_lock_held_by_a_migration_is_503_in_time(http: httpx.AsyncClient) -> None:
    async with holding("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"):
        answers = await asyncio.gather(
            timed(http.get("/v1/cities/1")), timed(http.patch("/v1/cities/2", json={"name": "Locked"}))
        )
        countries = await http.get("/v1/countries")
    for answer, _ in answers:
        refused(answer)
    slowest = max(seconds for _, seconds in answers)
    print(f"D6: table locked: 503 after {slowest:.2f} s")
    assert 1.9 < slowest < ANSWER
    assert countries.status_code == 200
    assert (await http.get("/v1/cities/1")).status_code == 200
