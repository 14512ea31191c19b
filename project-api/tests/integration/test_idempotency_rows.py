"""Idempotency-Key on what is written to PostgreSQL: one request, one row, and its answer again byte for byte."""

import asyncio
import uuid
from collections import Counter
from typing import Any

import database
import httpx
import pytest
from processes import Api
from test_idempotency import new_key

COUNTRIES = "/v1/countries"
pytestmark = pytest.mark.usefixtures("clean_tables")


def country(**fields: object) -> dict[str, Any]:
    return {
        "geonameid": 2_921_044,
        "code": "DE",
        "code3": "DEU",
        "numeric_code": 276,
        "name": "Germany",
        "continent": "EU",
    } | fields


def stored(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    own = {"x-request-id", "date", "idempotency-replayed"}
    return (
        answer.status_code,
        answer.content,
        {name: value for name, value in answer.headers.items() if name not in own},
    )


def test_a_repeat_gets_the_stored_answer(client: httpx.Client) -> None:
    key = new_key()
    first = client.post(COUNTRIES, json=country(), headers=key)
    assert first.status_code == 201, first.text
    assert {"location", "etag"} <= set(first.headers)
    assert "idempotency-replayed" not in first.headers
    # It is the answer of then, not the row of now.
    changed = client.patch(
        first.headers["location"], json={"name": "Deutschland"}, headers={"If-Match": first.headers["etag"]}
    )
    assert changed.status_code == 200, changed.text
    for _ in range(2):
        again = client.post(COUNTRIES, json=country(), headers=key)
        assert again.headers["idempotency-replayed"] == "true"
        assert stored(again) == stored(first)
    assert client.post(COUNTRIES, json=country(), headers=new_key()).status_code == 409


def test_another_request_is_refused(client: httpx.Client) -> None:
    key = new_key()
    assert client.post(COUNTRIES, json=country(), headers=key).status_code == 201
    answer = client.post(COUNTRIES, json=country(name="Deutschland"), headers=key)
    assert (answer.status_code, answer.json()["title"]) == (422, "Idempotency-Key is already used")
    assert client.post("/v1/cities", json=country(), headers=key).json()["title"] == answer.json()["title"]


def test_fifty_at_once_are_one_row(client: httpx.Client, api: Api, second_api: Api) -> None:
    key = new_key()

    async def post_25(process: Api) -> list[httpx.Response]:
        # As many at a time as the process has connections to PostgreSQL; a wait for one is row D3's.
        limits = httpx.Limits(max_connections=10)
        async with httpx.AsyncClient(base_url=process.url, timeout=20, limits=limits) as http:
            return await asyncio.gather(*(http.post(COUNTRIES, json=country(), headers=key) for _ in range(25)))

    async def post_all() -> list[httpx.Response]:
        return [answer for half in await asyncio.gather(*map(post_25, (api, second_api))) for answer in half]

    answers = asyncio.run(post_all())
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {201, 409}, statuses
    created = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in created}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in created) == 1
    refused = [answer for answer in answers if answer.status_code == 409]
    assert {(answer.json()["title"], answer.headers["retry-after"]) for answer in refused} <= {
        ("Request in progress", "2")
    }
    assert database.run("SELECT count(*) FROM countries")[0][0] == 1


async def test_in_progress_is_409(api: Api) -> None:
    key = new_key()
    lock = "SELECT pg_advisory_lock(hashtextextended('idempotency:' || $1, 0))"
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as client:
        async with database.connected() as other:
            await other.execute(lock, key["Idempotency-Key"].strip('"'))
            answer = await client.post(COUNTRIES, json=country(), headers=key)
            assert (answer.status_code, answer.headers["retry-after"]) == (409, "2")
            assert answer.json()["title"] == "Request in progress"
        # Nothing was written, and the key is free again.
        assert (await client.post(COUNTRIES, json=country(), headers=key)).status_code == 201


def test_a_refusal_is_not_stored(client: httpx.Client) -> None:
    key, other = new_key(), client.post(COUNTRIES, json=country())
    assert client.post(COUNTRIES, json=country(), headers=key).json()["title"] == "Row exists"
    removed = client.delete(other.headers["location"], headers={"If-Match": other.headers["etag"]})
    assert removed.status_code == 204
    again = client.post(COUNTRIES, json=country(), headers=key)
    assert again.status_code == 201
    assert "idempotency-replayed" not in again.headers


def test_a_key_is_forgotten_after_a_day(client: httpx.Client) -> None:
    key = new_key()
    first = client.post(COUNTRIES, json=country(), headers=key)
    database.run("UPDATE idempotency_keys SET created_at = now() - interval '23 hours 59 minutes'")
    assert client.post(COUNTRIES, json=country(), headers=key).content == first.content
    database.run("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 minute'")
    body = country(geonameid=1, code="AD", code3="AND")
    for _ in range(2):
        answer = client.post(COUNTRIES, json=body, headers=key)
        assert (answer.status_code, answer.json()["geonameid"]) == (201, 1)


@pytest.mark.parametrize("value", ["", "x" * 300, "a\tb"])
def test_a_bad_key_is_400(client: httpx.Client, value: str) -> None:
    answer = client.post(COUNTRIES, json=country(), headers={"Idempotency-Key": value})
    assert (answer.status_code, answer.json()["title"]) == (400, "Bad Idempotency-Key")


def test_a_key_of_tasks_is_another_one(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    assert client.post(COUNTRIES, json=country(), headers=headers).status_code == 201
    factors = {"multiplicand": 6, "multiplier": 7}
    assert client.post("/v1/project-worker/integer-multiplication", json=factors, headers=headers).is_success
