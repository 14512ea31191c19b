"""Bad input for countries, cities and their lists: a clear problem document, and nothing is written."""

from collections.abc import Iterator
from typing import Any

import database
import httpx
import pytest
from places import CITIES, COUNTRIES, GERMANY, MERGE_PATCH, MUNICH, city, created, refused, without_key
from processes import Api

MUNICHS = f"{CITIES}/{MUNICH['geonameid']}"
GERMANYS = f"{COUNTRIES}/{GERMANY['geonameid']}"
INJECTION = "'; drop table users--"
NO_IMPORT = "00000000-0000-4000-8000-000000000000"
LAX = ["1_2", "%2012%20", "12.0", "+12", "%D9%A1", "1e1"]
"""What is no whole number in decimal digits, though int() and others take it."""


@pytest.fixture(scope="module")
def http(api: Api) -> Iterator[httpx.Client]:
    database.empty_tables()
    with httpx.Client(base_url=api.url, timeout=20) as client:
        before = [created(client, COUNTRIES, GERMANY).json()], [created(client, CITIES, MUNICH).json()]
        yield client
        assert before == tuple(client.get(path).json()["items"] for path in (COUNTRIES, CITIES))


BAD_CITIES: dict[str, list[Any]] = {
    "geonameid": [0, -1, 2**31, 2**63, 1.0, "1", True, None],
    "name": ["", " ", "\u00a0\t\n", "x" * 251, "\0", "a\0b", 1, None, ["x"]],
    "alternate_names": [[""], ["x"] * 501, ["x" * 251], ["a\0"], "x", [None], {}],
    "country_code": ["", "D", "DEU", "de", "D\n", "DE\n", "ÄÖ", 1, None],
    "admin1_code": ["", "x" * 21, "a\0", 2],
    "latitude": [90.0001, -91, "1", True, None, 10**400, []],
    "longitude": [180.0001, -181, "1", None],
    "population": [-1, 2**53, 2**63, 1.5, "1", True],
    "timezone": ["", "Europe/Atlantis", "europe/berlin", "../../etc/passwd", "x" * 51, "UTC\0", None, 1],
    "version": [1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in BAD_CITIES for value in BAD_CITIES[field]]
)
def test_a_bad_field_of_a_city_is_422(http: httpx.Client, field: str, value: object) -> None:
    answers = [http.post(CITIES, json=city(10) | {field: value})]
    if field != "geonameid":
        answers += [
            http.put(MUNICHS, json=without_key(MUNICH) | {field: value}),
            # Where null clears, it is no error in a patch.
            http.patch(MUNICHS, json={field: value}),
        ]
    for answer in answers:
        problem = refused(answer, 422)
        assert problem["errors"][0]["field"].startswith(f"body.{field}")


BAD_COUNTRIES: dict[str, list[Any]] = {
    "geonameid": [0, 2**31, "1"],
    "code": ["", "de", "DEU", "D\n", None],
    "code3": ["", "DE", "deu", None],
    "numeric_code": [-1, 1000, "276", None],
    "name": ["", " ", "x" * 251, "\0", None],
    "capital": ["", "x" * 251, "\0"],
    "continent": ["", "XX", "eu", None],
    "population": [-1, 2**53],
    "area_km2": [-0.5, "1", True],
    "currency_code": ["", "EU", "eur"],
    "currency_name": ["", "x" * 51, "\0"],
    "phone": ["", "x" * 21, "\0"],
    "tld": ["", "x" * 11, "\0"],
    "languages": [[""], ["x" * 21], ["\0"], ["x"] * 101, "de"],
    "neighbours": [["fr"], ["FRA"], ["FR"] * 101, "FR"],
    "extra": [1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in BAD_COUNTRIES for value in BAD_COUNTRIES[field]]
)
def test_a_bad_field_of_a_country_is_422(http: httpx.Client, field: str, value: object) -> None:
    answers = [http.post(COUNTRIES, json=GERMANY | {"geonameid": 1} | {field: value})]
    if field != "geonameid":
        answers += [
            http.put(GERMANYS, json=without_key(GERMANY) | {field: value}),
            http.patch(GERMANYS, json={field: value}),
        ]
    for answer in answers:
        problem = refused(answer, 422)
        assert problem["errors"][0]["field"].startswith(f"body.{field}")


@pytest.mark.parametrize("field", ["geonameid", "name", "country_code", "latitude", "longitude", "timezone"])
def test_what_a_city_must_have(http: httpx.Client, field: str) -> None:
    refused(http.post(CITIES, json={k: v for k, v in city(10).items() if k != field}), 422)
    if field != "geonameid":
        refused(http.put(MUNICHS, json={k: v for k, v in without_key(MUNICH).items() if k != field}), 422)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_coordinate_is_a_finite_number(http: httpx.Client, number: str) -> None:
    body = f'{{"latitude": {number}}}'
    refused(http.patch(MUNICHS, content=body, headers=MERGE_PATCH), 400, 422)


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"", {422}),
        (b"null", {422}),
        (b"[]", {422}),
        (b'"name"', {422}),
        (b"{", {400}),
        (b'{"name": "\\ud800"}', {422}),
        (b'{"name": "\xff"}', {400}),
        (b"[" * 200_000, {400}),
        (b'{"population": ' + b"9" * 4301 + b"}", {400}),
        (b'{"name": "' + b"x" * 300 * 1024 + b'"}', {413}),
    ],
)
def test_a_body_that_is_no_document(http: httpx.Client, body: bytes, statuses: set[int]) -> None:
    json = {"Content-Type": "application/json"}
    refused(http.post(CITIES, content=body, headers=json), *statuses)
    refused(http.put(MUNICHS, content=body, headers=json), *statuses)
    refused(http.patch(MUNICHS, content=body, headers=MERGE_PATCH), *statuses)


@pytest.mark.parametrize("media_type", ["text/plain", "application/json-patch+json", "application/x-pickle"])
def test_a_body_is_declared(http: httpx.Client, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    refused(http.post(CITIES, content=b"{}", headers=headers), 415)
    refused(http.put(MUNICHS, content=b"{}", headers=headers), 415)
    refused(http.patch(MUNICHS, content=b"{}", headers=headers), 415)
    refused(http.put(MUNICHS, content=b"{}", headers=MERGE_PATCH), 415)


@pytest.mark.parametrize(
    "key", ["0", "-1", str(2**31), str(2**63), "abc", "1.5", "%00", INJECTION, "9" * 5000, *LAX]
)
def test_a_bad_key_is_422(http: httpx.Client, key: str) -> None:
    refused(http.get(f"{CITIES}/{key}/nearest"), 422)
    for path, document in ((CITIES, MUNICH), (COUNTRIES, GERMANY)):
        refused(http.get(f"{path}/{key}"), 422)
        refused(http.put(f"{path}/{key}", json=without_key(document)), 422)
        refused(http.patch(f"{path}/{key}", json={}), 422)
        refused(http.delete(f"{path}/{key}"), 422)


def test_a_list_of_the_nearest_has_a_limit_in_digits(http: httpx.Client) -> None:
    for lax in LAX:
        refused(http.get(f"{CITIES}/nearest?latitude=0&longitude=0&limit={lax}"), 422)
        refused(http.get(f"{MUNICHS}/nearest?limit={lax}"), 422)
        for path in ("/v1/tasks", "/v1/dead-letters", f"/v1/imports/{NO_IMPORT}/rejected"):
            refused(http.get(f"{path}?limit={lax}"), 422)


def test_a_document_of_mistakes_is_answered_in_short(http: httpx.Client) -> None:
    answer = http.post(CITIES, json={f"x{number}": 1 for number in range(20_000)})
    problem = refused(answer, 422)
    assert len(problem["errors"]) == 20
    assert problem["detail"].endswith(" more")
    assert len(answer.content) < 16_000


def test_methods(http: httpx.Client) -> None:
    for method, path, allowed in (("PUT", CITIES, "GET, POST"), ("POST", MUNICHS, "DELETE, GET, PATCH, PUT")):
        answer = http.request(method, path)
        refused(answer, 405)
        assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "query",
    [
        {"latitude": 91, "longitude": 0},
        {"latitude": 0, "longitude": 180.1},
        {"latitude": "NaN", "longitude": 0},
        {"latitude": "inf", "longitude": 0},
        {"latitude": INJECTION, "longitude": 0},
        {"latitude": 0},
        {"latitude": 0, "longitude": 0, "limit": 0},
        {"latitude": 0, "longitude": 0, "limit": 101},
        {"latitude": 0, "longitude": 0, "limit": 10**9},
    ],
)
def test_a_bad_point_is_422(http: httpx.Client, query: dict[str, Any]) -> None:
    refused(http.get(f"{CITIES}/nearest", params=query), 422)


@pytest.mark.parametrize("path", [CITIES, COUNTRIES])
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=-1", 422),
        ("limit=101", 422),
        ("limit=1000000000", 422),
        ("limit=abc", 422),
        ("limit=", 422),
        *((f"limit={lax}", 422) for lax in LAX),
        *((f"min_population={lax}", 422) for lax in LAX),
        *((f"max_population={lax}", 422) for lax in LAX),
        ("total=maybe", 422),
        ("sort=password", 422),
        ("sort=", 422),
        ("sort=--name", 422),
        ("sort=name,population", 422),
        ("sort=-relevance&q=x", 422),
        ("sort=relevance", 422),
        ("sort='; drop table users--", 422),
        ("sort=search_name", 422),
        ("min_population=-1", 422),
        ("max_population=9007199254740992", 422),
        ("max_population='; drop table users--", 422),
        ("q=", 422),
        ("q=%00", 422),
        ("q=a%00", 422),
        ("q=%20.%20", 422),
        ("q=%C2%B2", 422),  # ²
        ("q=%CA%BC", 422),  # a modifier letter
        ("q=" + "x" * 251, 422),
        ("unknown=1", 422),
        ("offset=10", 422),
        ("cursor=", 400),
        ("cursor=abc", 400),
        ("cursor=%00", 400),
        ("cursor='; drop table users--", 400),
        ("cursor=" + "A" * 10_000, 400),
        ("cursor=%C3%A9", 400),
    ],
)
def test_a_bad_question_is_refused(http: httpx.Client, path: str, query: str, status: int) -> None:
    refused(http.get(f"{path}?{query}"), status)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (CITIES, "country=de"),
        (CITIES, "country='; drop table users--"),
        (CITIES, "timezone=Europe/Atlantis"),
        (CITIES, "timezone='; drop table users--"),
        (CITIES, "timezone=../../etc/passwd"),
        (CITIES, "continent=EU"),
        (COUNTRIES, "code=de"),
        (COUNTRIES, "code='; drop table users--"),
        (COUNTRIES, "continent=XX"),
        (COUNTRIES, "continent='; drop table users--"),
        (COUNTRIES, "country=DE"),
    ],
)
def test_a_bad_filter_is_refused(http: httpx.Client, path: str, query: str) -> None:
    refused(http.get(f"{path}?{query}"), 422)


@pytest.mark.parametrize("path", [CITIES, COUNTRIES])
@pytest.mark.parametrize("searched", [INJECTION, "x' OR '1'='1", "a%", "_a", "\\a", "{a}", "$1a", ":a", "\x01a"])
def test_what_is_searched_for_is_only_text(http: httpx.Client, path: str, searched: str) -> None:
    answer = http.get(path, params={"q": searched})
    assert (answer.status_code, answer.json()["items"]) == (200, [])
