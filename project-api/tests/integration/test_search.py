"""Search by name: accents, case and typos do not matter, and what fits best comes first."""

from collections.abc import Iterator

import database
import httpx
import pytest
from places import CITIES, COUNTRIES, GERMANY, MUNICH, city, created
from processes import Api

OTHERS = ["Berlin", "Hamburg", "Köln", "Frankfurt am Main", "Stuttgart", "Mannheim", "Münster", "Minsk", "Zürich"]


@pytest.fixture(scope="module")
def http(api: Api) -> Iterator[httpx.Client]:
    database.empty_tables()
    with httpx.Client(base_url=api.url, timeout=20) as client:
        created(client, COUNTRIES, GERMANY)
        created(client, CITIES, MUNICH)
        for key, name in enumerate(OTHERS, 1):
            created(client, CITIES, city(key, name=name, population=key))
        for key, population in ((101, 5), (102, 9), (103, 9), (104, 7)):
            created(client, CITIES, city(key, name="Springfield", population=population))
        created(client, CITIES, city(105, name="Springfeld", population=10**9))
        yield client


def found(http: httpx.Client, q: str, **query: str | int) -> list[str]:
    answer = http.get(CITIES, params={"q": q, **query})
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()["items"]]


SPELLINGS = ["Munich", "munich", "MUNICH", "Münich", "munchen", "München", "Mu\u0308nchen", "Munch", "Munih"]


@pytest.mark.parametrize("q", [*SPELLINGS, "ミュンヘン", "monaco di baviera"])
def test_munich_is_found(http: httpx.Client, q: str) -> None:
    assert found(http, q)[0] == "Munich"


def test_what_is_not_similar_is_not_found(http: httpx.Client) -> None:
    assert found(http, "Reykjavik") == []
    assert found(http, "Baviera") == []
    assert "Berlin" not in found(http, "Munich")


def test_accents_of_the_name_do_not_matter_either(http: httpx.Client) -> None:
    assert found(http, "koln") == ["Köln"]
    assert found(http, "ZURICH") == ["Zürich"]
    assert found(http, "munster")[0] == "Münster"


def test_the_most_similar_comes_first_then_the_largest(http: httpx.Client) -> None:
    keys: list[int] = []
    query: dict[str, str | int] = {"q": "springfield", "limit": 2}
    while True:
        page = http.get(CITIES, params=query).json()
        keys += [item["geonameid"] for item in page["items"]]
        if page["cursor"] is None:
            break
        assert len(keys) == len(set(keys))
        query["cursor"] = page["cursor"]
    assert keys == [103, 102, 104, 101, 105]


def test_what_is_found_can_be_sorted_and_filtered(http: httpx.Client) -> None:
    assert found(http, "springfield", sort="-population", limit=1) == ["Springfeld"]
    assert found(http, "springfield", sort="name", limit=1) == ["Springfeld"]
    assert found(http, "springfield", max_population=5) == ["Springfield"]
    assert found(http, "munich", country="DE", min_population=10**6) == ["Munich"]


def test_countries_are_found(http: httpx.Client) -> None:
    for q in ("germany", "Gèrmany", "Germny"):
        assert [item["code"] for item in http.get(COUNTRIES, params={"q": q}).json()["items"]] == ["DE"]
    assert http.get(COUNTRIES, params={"q": "Brazil"}).json()["items"] == []
