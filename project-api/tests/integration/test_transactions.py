"""One request, one transaction: committed before the answer leaves, or nothing; repeated once."""

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import database
import httpx
import pytest
from processes import Api, wait_until

FRANCE = """
    INSERT INTO countries (geonameid, code, code3, numeric_code, name, continent)
    VALUES (1, 'FR', 'FRA', 250, 'France', 'EU')
"""


def city(geonameid: int) -> dict[str, object]:
    place = {"latitude": 48.9, "longitude": 2.4, "timezone": "Europe/Paris"}
    return {"geonameid": geonameid, "name": "Paris", "country_code": "FR", **place}


@pytest.fixture
def http(api: Api, clean_tables: None) -> Iterator[httpx.Client]:
    database.run(FRANCE)
    with httpx.Client(base_url=api.url, timeout=20) as client:
        yield client


@contextmanager
def at_commit(statement: str) -> Iterator[None]:
    """Have PostgreSQL run a statement of PL/pgSQL when a new city is committed."""
    body = f"BEGIN {statement}; RETURN NEW; END"
    database.run(f"CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    try:
        database.run(
            "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON cities DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION at_commit()"
        )
        yield
    finally:
        database.run("DROP FUNCTION at_commit() CASCADE")


def committed() -> int:
    return len(database.run("SELECT 1 FROM cities"))


def test_who_reads_after_the_answer_sees_the_row(http: httpx.Client) -> None:
    with at_commit("PERFORM pg_sleep(0.3)"):
        for number in range(1, 4):
            started = time.monotonic()
            assert http.post("/v1/cities", json=city(number)).status_code == 201
            assert time.monotonic() - started > 0.3
            assert committed() == number


def sent(api: Api, geonameid: int) -> list[str]:
    """Send a city; return the tasks that the access line names."""
    request_id = str(uuid.uuid4())
    httpx.post(f"{api.url}/v1/cities", json=city(geonameid), headers={"X-Request-ID": request_id}, timeout=20)
    access = re.compile(rf"app\.access \[{request_id}\] POST /v1/cities \d+ [\d.]+ ms(?:, sent (.*))?")
    wait_until(lambda: bool(access.search(api.log.read_text())), 20, "the line is there")
    [tasks] = access.findall(api.log.read_text())
    return tasks.split(", ") if tasks else []


def test_the_access_line_names_tasks_that_were_committed(http: httpx.Client, api: Api) -> None:
    with at_commit("RAISE 'no' USING ERRCODE = 'serialization_failure'"):  # each of two tries adds a task
        assert sent(api, 1) == []
    assert committed() == 0
    assert len(sent(api, 1)) == 1


@pytest.mark.parametrize(
    ("error", "status"), [("check_violation", 422), ("serialization_failure", 409), ("admin_shutdown", 503)]
)
def test_a_commit_that_fails_is_the_answer(http: httpx.Client, error: str, status: int) -> None:
    with at_commit(f"RAISE 'no' USING ERRCODE = '{error}'"):
        answer = http.post("/v1/cities", json=city(1))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert committed() == 0
    assert database.run("SELECT 1 FROM outbox") == []


def test_a_request_that_is_refused_has_written_nothing_and_keeps_nothing(http: httpx.Client) -> None:
    for wrong, status in (({**city(1), "country_code": "XX"}, 409), ({**city(1), "latitude": 91}, 422)):
        assert http.post("/v1/cities", json=wrong).status_code == status
    assert http.get("/v1/cities/1").status_code == 404
    in_transaction = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    assert database.run(in_transaction) == []
