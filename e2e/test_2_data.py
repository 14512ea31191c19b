"""The data on real input: GeoNames imported by a workflow, read, searched, changed; statistics that follow."""

import csv
import io
import json
import time
from typing import Any

import httpx
import pytest
from clone import Clone, wait_until

CITIES, COUNTRIES = 234_908, 252

HEADER = ("geonameid", "name", "country_code", "latitude", "longitude", "timezone", "population")


def follow(http: httpx.Client, accepted: httpx.Response) -> dict[str, Any]:
    """Return an import's document when it has ended."""
    assert accepted.status_code == 202, accepted.text
    location = accepted.headers["location"]

    def ended() -> bool:
        return http.get(location).json()["status"] in {"SUCCESS", "FAILURE", "REVOKED"}

    print(f"import: {wait_until(ended, 600, 'the import ends'):.1f} s")
    document: dict[str, Any] = http.get(location).json()
    return document


def upload(http: httpx.Client, rows: list[tuple[object, ...]], **headers: str) -> httpx.Response:
    """Send rows as a CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows([HEADER, *rows])
    content_type = {"Content-Type": "text/csv"}
    return http.post("/v1/imports", content=text.getvalue().encode(), headers=content_type | headers)


@pytest.fixture(scope="module")
def geonames(clone: Clone, first_up: str) -> dict[str, Any]:
    """The document of the import of all of GeoNames."""
    with httpx.Client(base_url=clone.url, timeout=60) as http:
        return follow(http, http.post("/v1/imports", json={"source": "geonames"}))


def test_all_of_geonames_is_imported(http: httpx.Client, stack: Clone, geonames: dict[str, Any]) -> None:
    assert geonames["status"] == "SUCCESS", geonames
    counts = {"read": CITIES, "inserted": CITIES, "updated": 0, "unchanged": 0, "rejected": 0}
    assert geonames["result"]["cities"] == counts
    assert geonames["result"]["countries"]["inserted"] == COUNTRIES
    # The same, straight from the files that the worker's environment holds.
    cities = json.loads((stack.geonames / "cities500.json").read_text()).values()
    french = [city for city in cities if city["countrycode"] == "FR"]
    page = http.get(
        "/v1/cities", params={"country": "FR", "sort": "-population", "limit": 3, "total": True}
    ).json()
    assert page["total"] == len(french)
    largest = sorted(french, key=lambda city: -city["population"])[:3]
    assert [city["geonameid"] for city in page["items"]] == [city["geonameid"] for city in largest]
    assert page["items"][0]["alternate_names"] == largest[0]["alternatenames"]
    france = http.get("/v1/countries", params={"code": "FR"}).json()["items"][0]
    statistics = http.get(f"/v1/countries/{france['geonameid']}/statistics").json()
    assert statistics["cities"] == len(french)
    assert statistics["population"] == sum(city["population"] for city in french)


def test_cities_are_found_as_people_write_them(http: httpx.Client, geonames: dict[str, Any]) -> None:
    for text in ("munich", "Münich", "Munnich", "MÜNCHEN"):
        found = http.get("/v1/cities", params={"q": text, "limit": 10}).json()["items"]
        assert 2867714 in [city["geonameid"] for city in found], (text, found)
    paris = http.get("/v1/cities/nearest", params={"latitude": 48.8566, "longitude": 2.3522, "limit": 1})
    assert paris.json()[0]["city"]["country_code"] == "FR"


def test_the_last_page_is_as_near_as_the_first(http: httpx.Client, geonames: dict[str, Any]) -> None:
    seen: set[int] = set()
    parameters: dict[str, Any] = {"country": "LU", "sort": "name", "limit": 50}
    while parameters:
        page = http.get("/v1/cities", params=parameters).json()
        ids = {city["geonameid"] for city in page["items"]}
        assert not seen & ids
        seen |= ids
        parameters = {**parameters, "cursor": page["cursor"]} if page["cursor"] else {}
    total = http.get("/v1/cities", params={"country": "LU", "total": True, "limit": 1}).json()["total"]
    assert len(seen) == total > 100


def test_an_uploaded_file_changes_adds_and_reports(http: httpx.Client, geonames: dict[str, Any]) -> None:
    document = follow(
        http,
        upload(
            http,
            [
                (2147483001, "Nouvelle", "FR", 48.5, 2.5, "Europe/Paris", 10),
                (2147483001, "Twice", "FR", 48.5, 2.5, "Europe/Paris", 10),
                (2147483002, "Nowhere", "XX", 1, 1, "Europe/Paris", 10),
                (2147483003, "Flat", "FR", "north", 1, "Europe/Paris", 10),
            ],
        ),
    )
    assert document["result"]["cities"] == {
        "read": 4,
        "inserted": 1,
        "updated": 0,
        "unchanged": 0,
        "rejected": 3,
    }
    rejected = document["rejected"]["items"]
    assert [row["line"] for row in rejected] == [3, 4, 5]
    assert all(row["reason"] for row in rejected)
    changed = follow(http, upload(http, [(2147483001, "Neuve", "FR", 48.5, 2.5, "Europe/Paris", 11)]))
    assert changed["result"]["cities"]["updated"] == 1
    assert http.get("/v1/cities/2147483001").json()["name"] == "Neuve"
    assert http.delete("/v1/cities/2147483001").status_code == 204


def test_a_written_city_refreshes_its_countrys_statistics(http: httpx.Client, geonames: dict[str, Any]) -> None:
    monaco = http.get("/v1/countries", params={"code": "MC"}).json()["items"][0]["geonameid"]
    before = http.get(f"/v1/countries/{monaco}/statistics").json()
    city = {
        "geonameid": 2147483010,
        "name": "Port Neuf",
        "country_code": "MC",
        "latitude": 43.73,
        "longitude": 7.42,
        "population": 1000,
        "timezone": "Europe/Monaco",
    }
    created = http.post("/v1/cities", json=city)
    assert created.status_code == 201, created.text
    assert http.get(created.headers["location"]).headers["etag"] == created.headers["etag"]

    def statistics() -> dict[str, Any]:
        document: dict[str, Any] = http.get(f"/v1/countries/{monaco}/statistics").json()
        return document

    waited = wait_until(lambda: statistics()["cities"] == before["cities"] + 1, 60, "the statistics follow")
    print(f"statistics followed after {waited:.1f} s")
    assert statistics()["population"] == before["population"] + 1000
    stale = {"If-Match": '"0"'}
    assert http.delete(created.headers["location"], headers=stale).status_code == 412
    assert http.delete(created.headers["location"]).status_code == 204
    wait_until(lambda: statistics()["cities"] == before["cities"], 60, "the statistics follow again")


def test_a_worker_killed_in_a_second_import_loses_doubles_and_changes_nothing(
    http: httpx.Client, stack: Clone, geonames: dict[str, Any]
) -> None:
    accepted = http.post("/v1/imports", json={"source": "geonames"})
    location = accepted.headers["location"]
    wait_until(lambda: http.get(location).json()["rows"]["processed"] > 0, 240, "rows are loaded")
    stack.program(" tasks:app worker").kill()
    started = time.monotonic()
    document = follow(http, accepted)
    assert document["status"] == "SUCCESS", document
    assert document["result"]["cities"]["unchanged"] == document["result"]["cities"]["read"] == CITIES
    assert document["result"]["countries"]["unchanged"] == COUNTRIES
    print(f"ended {time.monotonic() - started:.1f} s after the kill")


def test_an_import_can_be_cancelled(http: httpx.Client, geonames: dict[str, Any]) -> None:
    accepted = http.post("/v1/imports", json={"source": "geonames"})
    identity = accepted.json()["id"]
    assert http.delete(f"/v1/tasks/{identity}").status_code in {200, 202}
    document = follow(http, accepted)
    assert document["status"] == "REVOKED"
