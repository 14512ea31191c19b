"""Countries and cities for tests, as clients send them, and the form of a refusal.

What belongs here: what several tests of the CRUD endpoints share.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx

CITIES = "/v1/cities"
COUNTRIES = "/v1/countries"
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}

GERMANY: dict[str, Any] = {
    "geonameid": 2921044,
    "code": "DE",
    "code3": "DEU",
    "numeric_code": 276,
    "name": "Germany",
    "capital": "Berlin",
    "continent": "EU",
    "population": 82927922,
    "area_km2": 357021.5,
    "currency_code": "EUR",
    "currency_name": "Euro",
    "phone": "49",
    "tld": ".de",
    "languages": ["de"],
    "neighbours": ["FR", "CH"],
}

FRANCE: dict[str, Any] = {
    "geonameid": 3017382,
    "code": "FR",
    "code3": "FRA",
    "numeric_code": 250,
    "name": "France",
    "continent": "EU",
}

MUNICH: dict[str, Any] = {
    "geonameid": 2867714,
    "name": "Munich",
    "alternate_names": ["München", "Munchen", "Monaco di Baviera", "ミュンヘン"],
    "country_code": "DE",
    "admin1_code": "02",
    "latitude": 48.13743,
    "longitude": 11.57549,
    "population": 1260391,
    "timezone": "Europe/Berlin",
}


def city(geonameid: int, **fields: Any) -> dict[str, Any]:
    """A German city with the fields that it must have."""
    required = {"name": f"City {geonameid}", "country_code": "DE", "latitude": 50, "longitude": 10}
    return required | {"timezone": "Europe/Berlin", "geonameid": geonameid} | fields


def without_key(document: dict[str, Any]) -> dict[str, Any]:
    """What a PUT takes."""
    return {name: value for name, value in document.items() if name != "geonameid"}


def created(http: httpx.Client, path: str, document: dict[str, Any]) -> httpx.Response:
    response = http.post(path, json=document)
    assert response.status_code == 201, response.text
    return response


def refused(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    return problem


def at_once(
    http: httpx.Client, requests: Sequence[tuple[str, str, dict[str, Any]]], headers: dict[str, str] | None = None
) -> list[httpx.Response]:
    """Send all requests (method, path, body) at the same time; return their answers, in their order.

    There are fewer connections to PostgreSQL than requests. On a slow machine some wait too long for one and get
    503: these have written nothing, and are sent again, as the answer says.
    """

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=http.base_url, timeout=20, headers=headers) as client:
            return await asyncio.gather(*(answered(client, *request) for request in requests))

    async def answered(client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
        deadline = time.monotonic() + 20
        while True:
            response = await client.request(method, path, json=body)
            if response.status_code != 503:
                return response
            assert response.headers["retry-after"]
            assert "every connection to PostgreSQL is busy" in response.json()["detail"]
            assert time.monotonic() < deadline

    return asyncio.run(send())
