"""The main job on real input: API → RabbitMQ → worker → Redis → API."""

import json
import time
import uuid

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


def test_a_task_whose_arguments_json_cannot_hold(http: httpx.Client) -> None:
    """Security 1, as it is meant: signed pickle, to a worker of its own."""
    lines = [
        {"label": "Paper", "quantity": "3", "unit_price": "0.10", "tags": ["office"]},
        {"label": "Pen", "quantity": "1", "unit_price": "19.99"},
    ]
    invoice = {"issued": "2026-11-22T23:30:00+01:00", "due": "2026-12-22", "lines": lines}
    response = http.post("/v1/project-worker/invoice-total", json={"invoice": invoice})
    assert response.status_code == 200, response.text
    assert response.json()["result"] == {
        "total": "20.29",
        "total_by_tag": {"office": "0.30"},
        "days_to_pay": 30,
    }


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
    cities = json.loads((stack.geonames / "cities500.json").read_text()).values()
    countries = json.loads((stack.geonames / "countries.json").read_text()).values()
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


def test_what_has_ended_is_listed_and_has_a_timeline(http: httpx.Client) -> None:
    task_id = http.post("/v1/workflows/chord", json={"integer": 2, "n": 3}).json()["id"]
    tasks = http.get("/v1/tasks", params={"limit": 4, "status": "SUCCESS"}).json()["tasks"]
    assert [task["name"] for task in tasks] == ["project-worker.integers_sum"] + (
        ["project-worker.integer_multiplication"] * 3
    )
    assert {tasks[0]["id"], *(task["root_id"] for task in tasks[1:])} == {task_id}

    def steps() -> set[str]:
        return {step["step"] for step in http.get(f"/v1/tasks/{task_id}/timeline").json()["steps"]}

    every = {"accepted", "confirmed", "received", "started", "finished", "stored", "delivered"}
    wait_until(lambda: steps() >= every, 15, f"the timeline has every step: {steps()}")


def test_a_dead_letter_is_shown_replayed_and_deleted(http: httpx.Client, stack: Clone) -> None:
    task_id = str(uuid.uuid4())
    settings = stack.settings()
    # As a producer that misspells a task's name.
    published = httpx.post(
        f"http://127.0.0.1:{stack.ports['RABBITMQ_MANAGEMENT_PORT']}"
        f"/api/exchanges/{settings['RABBITMQ_VHOST']}/project-worker/publish",
        auth=(settings["RABBITMQ_USER"], settings["RABBITMQ_PASSWORD"]),
        json={
            "routing_key": "project-worker",
            "payload": "[[], {}, {}]",
            "payload_encoding": "string",
            "properties": {
                "content_type": "application/json",
                "content_encoding": "utf-8",
                "correlation_id": task_id,
                "headers": {"id": task_id, "task": "project-worker.mutliplication", "lang": "py"},
            },
        },
    )
    assert published.json() == {"routed": True}

    def listed() -> bool:
        return f"{task_id}  " in stack.must("dead-letters")

    wait_until(listed, 15, "the dead letter is listed")
    error = http.get(f"/v1/tasks/{task_id}").json()["error"]
    assert error["type"] == "NotRegistered"
    shown = stack.must("dead-letters", "show", task_id)
    assert "project-worker.mutliplication" in shown
    assert f"{error['type']}: {error['message']}" in shown
    assert f"/v1/tasks/{task_id}" in stack.must("dead-letters", "replay", task_id)
    wait_until(listed, 15, "it has died again")
    assert f"deleted {task_id}" in stack.must("dead-letters", "delete", task_id)
    unknown = stack.stack("dead-letters", "show", task_id)
    assert unknown.returncode == 1
    assert f"there is no dead letter {task_id}" in unknown.stdout
    assert "There are no dead letters." in stack.must("dead-letters", "list")
