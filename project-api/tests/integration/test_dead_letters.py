"""What could not be worked: listed, replayed, deleted."""

import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from processes import Api, Worker, running_reaper, wait_until
from worker_app import DIE, app, cure_of

from project_contracts.integers import INTEGER_MULTIPLICATION
from project_contracts.queues import PROJECT_WORKER

MULTIPLY = "/v1/project-worker/integer-multiplication"
LETTERS = "/v1/dead-letters"


@pytest.fixture(scope="module", autouse=True)
def reaper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with running_reaper(tmp_path_factory.mktemp("reaper") / "log"):
        yield


@pytest.fixture(autouse=True)
def none_at_first(client: httpx.Client) -> None:
    assert client.delete(LETTERS, params={"confirm": "all"}).status_code == 200


def letters(client: httpx.Client) -> list[dict[str, Any]]:
    response = client.get(LETTERS)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["dead_letters"]
    return found


def send_unknown(task_id: str) -> None:
    """Publish a task that no worker knows, as a foreign producer would."""
    with app.connection_for_write() as connection:
        app.send_task(
            "nobody.knows", (1,), task_id=task_id, queue=PROJECT_WORKER, connection=connection, ignore_result=True
        )


def test_a_poison_task_is_a_dead_letter_that_can_be_replayed(client: httpx.Client) -> None:
    dose = random.randrange(10**12)
    response = client.post(
        MULTIPLY, json={"multiplicand": DIE, "multiplier": dose}, headers={"Prefer": "wait=30"}
    )
    assert response.status_code == 502, response.text
    task_id = response.json()["taskId"]
    wait_until(lambda: bool(letters(client)), 10, "it is parked")
    (letter,) = letters(client)
    assert (letter["id"], letter["task_id"]) == (task_id, task_id)
    assert (letter["name"], letter["queue"]) == ("project-worker.integer_multiplication", PROJECT_WORKER)
    assert letter["reason"] == "rejected"
    assert letter["error"]["type"] == "WorkerLost"
    assert str(dose) in letter["keyword_arguments"]
    assert client.get(f"{LETTERS}/{task_id}").json() == letter
    cure_of(dose).touch()
    try:
        replayed = client.post(f"{LETTERS}/{task_id}/replay")
        assert (replayed.status_code, replayed.json()) == (202, {"id": task_id, "status": "QUEUED"})
        location = replayed.headers["location"]
        assert location == f"/v1/tasks/{task_id}"
        document = client.get(location, params={"wait": 20}).json()
        assert (document["status"], document["result"]) == ("SUCCESS", DIE * dose)
    finally:
        cure_of(dose).unlink()
    assert letters(client) == []
    assert client.post(f"{LETTERS}/{task_id}/replay").status_code == 404


def test_dead_letters_can_be_deleted_one_by_one_or_all_at_once(client: httpx.Client) -> None:
    ids = [f"00000000-0000-4000-8000-{random.randrange(10**12):012}" for _ in range(3)]
    for task_id in ids:
        send_unknown(task_id)
    wait_until(lambda: len(letters(client)) == 3, 10, "they are parked")
    assert {letter["id"] for letter in letters(client)} == set(ids)
    assert {letter["error"]["type"] for letter in letters(client)} == {"NotRegistered"}
    page = client.get(LETTERS, params={"limit": 2}).json()
    assert (len(page["dead_letters"]), page["more"]) == (2, True)
    assert client.get(LETTERS, params={"limit": 3}).json()["more"] is False

    assert client.delete(f"{LETTERS}/{ids[0]}").status_code == 204
    assert client.delete(f"{LETTERS}/{ids[0]}").status_code == 404
    assert client.get(f"{LETTERS}/{ids[0]}").status_code == 404
    assert client.get(f"/v1/tasks/{ids[0]}").json()["status"] == "FAILURE"
    assert {letter["id"] for letter in letters(client)} == set(ids[1:])

    for confirm in ({}, {"confirm": ""}, {"confirm": "yes"}):
        assert client.delete(LETTERS, params=confirm).status_code == 422
    assert len(letters(client)) == 2
    assert client.delete(LETTERS, params={"confirm": "all"}).json() == {"deleted": 2}
    assert letters(client) == []


def test_what_is_replayed_in_vain_is_a_dead_letter_again(client: httpx.Client) -> None:
    task_id = f"00000000-0000-4000-8000-{random.randrange(10**12):012}"
    send_unknown(task_id)
    wait_until(lambda: len(letters(client)) == 1, 10, "it is parked")
    (first,) = letters(client)
    assert client.post(f"{LETTERS}/{task_id}/replay").status_code == 202

    def again() -> bool:
        return [letter["died_at"] > first["died_at"] for letter in letters(client)] == [True]

    wait_until(again, 10, "it is parked again")


def test_a_wait_that_is_over_leaves_no_dead_letter(client: httpx.Client, worker: Worker) -> None:
    # Its sender vanishes: nobody revokes the task, it expires in its queue.
    with worker.standing_still(), app.connection_for_write() as connection:
        for _ in range(4):  # what the worker has fetched already does not expire in the queue
            sent = app.send_task(
                INTEGER_MULTIPLICATION.name, (6, 7), queue=PROJECT_WORKER, expires=1, connection=connection,
                expiration=1, ignore_result=True,
            )  # fmt: skip
        wait_until(lambda: client.get(f"/v1/tasks/{sent.id}").status_code == 200, 10, "the reaper has met it")
        document = client.get(f"/v1/tasks/{sent.id}").json()
    assert (document["status"], document["error"]["message"]) == ("REVOKED", "expired")
    problem = client.get(f"/v1/tasks/{sent.id}/result")
    assert problem.status_code == 409
    assert problem.json()["detail"].endswith("expired in its queue")
    assert letters(client) == []


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@pytest.mark.parametrize(
    ("letter_id", "status"),
    [
        ("00000000-0000-4000-8000-000000000000", 404),
        ("nothing", 404),
        ("*", 422),
        (".x", 422),
        ("x%0d%0a", 422),
        ("%00", 422),
        ("x" * 256, 422),
        ("caf%C3%A9", 422),
        ("a%20b", 422),
    ],
)
def test_a_dead_letter_that_is_none(client: httpx.Client, method: str, letter_id: str, status: int) -> None:
    response = client.request(method, f"{LETTERS}/{letter_id}" + ("/replay" if method == "POST" else ""))
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("limit", ["0", "-1", "101", "1000000000", "abc", ""])
def test_an_odd_limit_is_422(client: httpx.Client, limit: str) -> None:
    assert client.get(LETTERS, params={"limit": limit}).status_code == 422


def test_methods_that_there_are(client: httpx.Client) -> None:
    for path, allowed in (
        (LETTERS, "DELETE, GET"),
        (f"{LETTERS}/x", "DELETE, GET"),
        (f"{LETTERS}/x/replay", "POST"),
    ):
        response = client.put(path)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)


def test_without_the_broker_there_is_a_503(cut_off: Api) -> None:
    for method, path in (("GET", LETTERS), ("DELETE", f"{LETTERS}/x"), ("POST", f"{LETTERS}/x/replay")):
        response = httpx.request(method, cut_off.url + path, timeout=10)
        assert response.status_code == 503, response.text
        assert response.elapsed.total_seconds() < 5
        assert "retry-after" in response.headers
        assert "127.0.0.1" not in response.text
