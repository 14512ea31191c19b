"""Countries over HTTP: what differs from cities, which refer to them."""

from collections.abc import Iterator
from typing import Any

import database
import httpx
import pytest
from places import CITIES, COUNTRIES, FRANCE, GERMANY, MUNICH, at_once, city, created, refused, without_key
from processes import Api

ONE = f"{COUNTRIES}/{GERMANY['geonameid']}"
MUNICHS = f"{CITIES}/{MUNICH['geonameid']}"


@pytest.fixture
def http(api: Api, clean_tables: None) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=20) as client:
        yield client


def test_a_country_lives(http: httpx.Client) -> None:
    response = created(http, COUNTRIES, GERMANY)
    tag = response.headers["etag"]
    assert response.headers["location"] == ONE
    assert response.json().items() >= GERMANY.items()
    assert http.get(ONE).json() == response.json()
    assert http.get(ONE, headers={"If-None-Match": tag}).status_code == 304
    assert http.patch(ONE, json={}).headers["etag"] == tag
    patched = http.patch(ONE, json={"capital": "Bonn", "languages": None}, headers={"If-Match": tag})
    assert (patched.json()["capital"], patched.json()["languages"], patched.json()["version"]) == ("Bonn", [], 2)
    refused(http.put(ONE, json=without_key(GERMANY), headers={"If-Match": tag}), 412)
    assert http.put(ONE, json=without_key(GERMANY)).json()["version"] == 3
    assert http.put(ONE, json=without_key(GERMANY)).json()["version"] == 3
    refused(http.delete(ONE, headers={"If-Match": tag}), 412)
    assert http.delete(ONE).status_code == 204
    for answer in (
        http.get(ONE),
        http.delete(ONE),
        http.put(ONE, json=without_key(GERMANY)),
        http.patch(ONE, json={}),
    ):
        refused(answer, 404)


@pytest.mark.parametrize("field", ["geonameid", "code", "code3"])
def test_a_key_is_taken_once(http: httpx.Client, field: str) -> None:
    created(http, COUNTRIES, GERMANY)
    assert field in refused(http.post(COUNTRIES, json=FRANCE | {field: GERMANY[field]}), 409)["detail"]
    if field != "geonameid":
        created(http, COUNTRIES, FRANCE)
        refused(http.patch(f"{COUNTRIES}/{FRANCE['geonameid']}", json={field: GERMANY[field]}), 409)


def test_a_country_with_cities_stays(http: httpx.Client) -> None:
    created(http, COUNTRIES, GERMANY)
    created(http, CITIES, MUNICH)
    assert "has cities: delete them" in refused(http.delete(ONE), 409)["detail"]
    assert http.get(ONE).status_code == 200
    http.delete(MUNICHS)
    assert http.delete(ONE).status_code == 204


def test_a_country_keeps_its_code_while_it_has_cities(http: httpx.Client) -> None:
    tag = created(http, COUNTRIES, GERMANY).headers["etag"]
    munich = created(http, CITIES, MUNICH)
    renamed = GERMANY | {"code": "DD"}
    for answer in (http.patch(ONE, json={"code": "DD"}), http.put(ONE, json=without_key(renamed))):
        assert "has cities: delete them, or move them" in refused(answer, 409)["detail"]
    assert http.get(ONE).headers["etag"] == tag
    assert http.patch(ONE, json={"code": "DE", "capital": "Bonn"}).status_code == 200
    assert http.get(MUNICHS).headers["etag"] == munich.headers["etag"]
    http.delete(MUNICHS)
    assert http.patch(ONE, json={"code": "DD"}).json()["code"] == "DD"
    created(http, CITIES, MUNICH | {"country_code": "DD"})
    refused(http.post(CITIES, json=city(8, country_code="DE")), 409)


def test_statistics_do_not_follow_a_new_code(http: httpx.Client) -> None:
    """They may be of a city that is gone since: the task that would say so knows the old code."""
    created(http, COUNTRIES, GERMANY)
    database.run("INSERT INTO country_statistics (country_code, cities, population) VALUES ('DE', 1, 7)")
    assert http.patch(ONE, json={"name": "Deutschland"}).status_code == 200
    assert http.get(f"{ONE}/statistics").json()["cities"] == 1
    assert http.patch(ONE, json={"code": "DD"}).status_code == 200
    refused(http.get(f"{ONE}/statistics"), 404)


def test_a_new_code_and_a_new_city_at_once(http: httpx.Client) -> None:
    """Whoever is first: no city is left without its country."""
    created(http, COUNTRIES, GERMANY)
    for number in range(1, 11):
        requests: list[tuple[str, str, dict[str, Any]]] = [
            ("PATCH", ONE, {"code": "DD"}),
            ("POST", CITIES, city(number)),
        ]
        renamed, founded = at_once(http, requests)
        assert sorted((renamed.status_code, founded.status_code)) in ([200, 409], [201, 409])
        http.delete(f"{CITIES}/{number}")
        assert http.patch(ONE, json={"code": "DE"}).status_code == 200


def test_of_fifty_concurrent_creates_one_wins(http: httpx.Client) -> None:
    answers = at_once(http, [("POST", COUNTRIES, GERMANY)] * 50)
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 49
    assert http.get(COUNTRIES, params={"total": True}).json()["total"] == 1
