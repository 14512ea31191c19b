"""Tasks over HTTP: the wait rules, honest states, results that can be read twice."""

import threading
import time
import uuid
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from processes import Api, Worker, running_api, wait_until
from worker_app import FAIL, HUGE, NOT_A_NUMBER, SLEEP

MULTIPLY = "/v1/project-worker/integer-multiplication"
SUM = "/v1/project-worker/integers-sum"


def factors(multiplicand: int, multiplier: int) -> dict[str, int]:
    return {"multiplicand": multiplicand, "multiplier": multiplier}


def test_a_plain_post_waits_for_the_result(client: httpx.Client) -> None:
    response = client.post(MULTIPLY, json=factors(6, 7))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["status"], body["result"]) == ("SUCCESS", 42)
    assert uuid.UUID(body["id"])


def test_respond_async_answers_at_once_and_the_task_can_be_followed(client: httpx.Client) -> None:
    response = client.post(MULTIPLY, json=factors(SLEEP, 300), headers={"Prefer": "respond-async"})
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "respond-async"
    location = response.headers["location"]
    assert location == f"/v1/tasks/{response.json()['id']}"
    assert client.get(location).json()["status"] in ("QUEUED", "STARTED")
    running = client.get(location + "/result")
    assert running.status_code == 202
    assert running.headers["retry-after"] == "1"
    wait_until(lambda: client.get(location).json()["status"] == "SUCCESS", 5, "the task succeeds")
    document = client.get(location).json()
    assert document["name"] == "project-worker.integer_multiplication"
    assert document["result"] == SLEEP * 300
    assert document["attempts"] == 1
    accepted, finished = (datetime.fromisoformat(document[name]) for name in ("accepted_at", "finished_at"))
    assert 0 < (finished - accepted).total_seconds() < 5
    first, second = client.get(location + "/result"), client.get(location + "/result")
    assert first.json() == second.json() == {
        "id": response.json()["id"], "status": "SUCCESS", "result": SLEEP * 300
    }  # fmt: skip


def test_respond_async_with_wait_gives_the_result_when_it_is_fast(client: httpx.Client) -> None:
    response = client.post(MULTIPLY, json=factors(6, 7), headers={"Prefer": "respond-async, wait=5"})
    assert (response.status_code, response.json()["result"]) == (200, 42)
    assert response.headers["preference-applied"] == "respond-async, wait=5"


def test_respond_async_with_wait_lets_the_task_go_on_when_it_is_slow(client: httpx.Client) -> None:
    response = client.post(MULTIPLY, json=factors(SLEEP, 1500), headers={"Prefer": "respond-async, wait=1"})
    assert response.status_code == 202
    location = response.headers["location"]
    wait_until(lambda: client.get(location).json()["status"] == "SUCCESS", 5, "the task goes on")


def test_a_wait_that_is_too_short_revokes_the_task(client: httpx.Client) -> None:
    started = time.monotonic()
    response = client.post(MULTIPLY, json=factors(SLEEP, 20_000), headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - started < 3
    assert response.status_code == 504
    problem = response.json()
    assert problem["status"] == 504
    location = f"/v1/tasks/{problem['taskId']}"
    wait_until(lambda: client.get(location).json()["status"] == "REVOKED", 15, "the task is stopped")
    assert client.get(location + "/result").status_code == 409


def test_a_revoked_task_that_had_not_started_never_runs(client: httpx.Client, worker: Worker) -> None:
    with worker.standing_still():
        response = client.post(MULTIPLY, json=factors(SLEEP, 1), headers={"Prefer": "wait=1"})
    assert response.status_code == 504
    location = f"/v1/tasks/{response.json()['taskId']}"
    wait_until(lambda: client.get(location).json()["status"] == "REVOKED", 10, "the task is dropped")


def test_a_task_that_nobody_has_started_is_queued(client: httpx.Client, worker: Worker) -> None:
    with worker.standing_still():
        response = client.post(MULTIPLY, json=factors(2, 3), headers={"Prefer": "respond-async"})
        document = client.get(response.headers["location"]).json()
    assert document["status"] == "QUEUED"
    assert document["accepted_at"] is not None
    assert document["result"] is None
    location = response.headers["location"]
    wait_until(lambda: client.get(location).json()["status"] == "SUCCESS", 15, "the task runs later")


def test_a_failed_task_is_told_without_its_traceback(client: httpx.Client) -> None:
    response = client.post(MULTIPLY, json=factors(FAIL, 7))
    assert response.status_code == 502
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert "ValueError" in problem["detail"]
    assert "told to fail with 7" in problem["detail"]
    assert "Traceback" not in response.text
    document = client.get(f"/v1/tasks/{problem['taskId']}").json()
    assert document["status"] == "FAILURE"
    assert document["error"] == {"type": "ValueError", "message": "told to fail with 7", "code": None}
    assert client.get(f"/v1/tasks/{problem['taskId']}/result").status_code == 502


def test_the_code_of_an_error_is_passed_on(client: httpx.Client) -> None:
    response = client.post(MULTIPLY, json=factors(FAIL, -1))
    assert (response.status_code, response.json()["code"]) == (502, "too-small")
    document = client.get(f"/v1/tasks/{response.json()['taskId']}").json()
    assert document["error"] == {
        "type": "TooSmallError", "message": "told to fail with -1", "code": "too-small"
    }  # fmt: skip


@pytest.mark.parametrize("multiplicand", [NOT_A_NUMBER, HUGE])
def test_a_result_that_cannot_be_passed_on_is_the_workers_fault(client: httpx.Client, multiplicand: int) -> None:
    response = client.post(MULTIPLY, json=factors(multiplicand, 1))
    assert response.status_code == 502
    task_id = response.json()["taskId"]
    assert client.get(f"/v1/tasks/{task_id}").status_code == 200
    assert client.get(f"/v1/tasks/{task_id}/result").status_code in (200, 502)


def test_a_task_that_did_not_start_by_its_deadline_is_gone(tmp_path: Path, worker: Worker) -> None:
    short = dict.fromkeys(("TASK_DEADLINE_SECONDS", "RESULT_WAIT_SECONDS", "RESULT_WAIT_MAX_SECONDS"), "1")
    with running_api(tmp_path / "log", **short) as api, worker.standing_still():
        location = api.url + httpx.post(f"{api.url}{MULTIPLY}/async", json=factors(6, 7)).headers["location"]
        assert httpx.get(location).json()["status"] == "QUEUED"
        wait_until(lambda: httpx.get(location).status_code == 410, 5, "the deadline passes")
        assert httpx.get(location + "/result").status_code == 410
        assert httpx.delete(location).status_code == 410


@pytest.mark.parametrize("suffix", ["", "/result"])
def test_an_unknown_id_is_404_and_nonsense_is_422(client: httpx.Client, suffix: str) -> None:
    assert client.get(f"/v1/tasks/{uuid.uuid4()}{suffix}").status_code == 404
    for nonsense in ("abc", "*", "%0d%0a", "celery-task-meta-*", "0" * 33):
        assert client.get(f"/v1/tasks/{nonsense}{suffix}").status_code == 422, nonsense


def test_the_async_twin_answers_at_once_whatever_is_preferred(client: httpx.Client) -> None:
    for prefer in ("", "wait=5", "respond-async, wait=5"):
        response = client.post(MULTIPLY + "/async", json=factors(6, 7), headers={"Prefer": prefer})
        assert response.status_code == 202
        assert response.headers["preference-applied"] == "respond-async"
        location = response.headers["location"]
        assert client.get(location, params={"wait": 10}).json()["result"] == 42


def test_a_long_poll_ends_with_the_task(client: httpx.Client) -> None:
    location = client.post(MULTIPLY + "/async", json=factors(SLEEP, 800)).headers["location"]
    started = time.monotonic()
    assert client.get(location, params={"wait": 0.2}).json()["status"] in ("QUEUED", "STARTED")
    assert client.get(location, params={"wait": 30}).json()["status"] == "SUCCESS"
    assert time.monotonic() - started < 5


def test_a_long_poll_tells_of_a_failure_too(client: httpx.Client) -> None:
    location = client.post(MULTIPLY + "/async", json=factors(FAIL, 1)).headers["location"]
    response = client.get(location, params={"wait": 30})
    assert (response.status_code, response.json()["status"]) == (200, "FAILURE")


@pytest.mark.parametrize("wait", ["-1", "0", "NaN", "inf", "1e9", "61", "abc", ""])
def test_an_odd_long_poll_is_422(client: httpx.Client, wait: str) -> None:
    task_id = client.post(MULTIPLY, json=factors(6, 7)).json()["id"]
    assert client.get(f"/v1/tasks/{task_id}", params={"wait": wait}).status_code == 422


def test_a_running_task_can_be_cancelled_and_twice(client: httpx.Client) -> None:
    location = client.post(MULTIPLY + "/async", json=factors(SLEEP, 30_000)).headers["location"]
    wait_until(lambda: client.get(location).json()["status"] == "STARTED", 10, "the task runs")
    for _ in range(2):
        response = client.delete(location)
        assert (response.status_code, response.json()["status"]) == (200, "REVOKED")
    assert client.get(location + "/result").status_code == 409
    # Its worker is free again: thirty seconds have not passed.
    assert client.post(MULTIPLY, json=factors(6, 7)).json()["result"] == 42


def test_a_queued_task_that_is_cancelled_never_runs(client: httpx.Client, worker: Worker) -> None:
    with worker.standing_still():
        location = client.post(MULTIPLY + "/async", json=factors(SLEEP, 1)).headers["location"]
        assert client.delete(location).json()["status"] == "REVOKED"
    task_id = location.rsplit("/", 1)[1]
    wait_until(lambda: task_id in worker.log.read_text(), 15, "the worker meets the message")
    assert client.post(MULTIPLY, json=factors(6, 7)).json()["result"] == 42
    assert f"{task_id}] succeeded" not in worker.log.read_text()
    assert client.get(location).json()["status"] == "REVOKED"


def test_a_task_can_be_cancelled_while_the_broker_is_down(
    client: httpx.Client, worker: Worker, cut_off: Api
) -> None:
    running = client.post(MULTIPLY + "/async", json=factors(SLEEP, 30_000)).headers["location"]
    wait_until(lambda: client.get(running).json()["status"] == "STARTED", 10, "the task runs")
    assert httpx.delete(cut_off.url + running).status_code in (200, 202)
    wait_until(lambda: client.get(running).json()["status"] == "REVOKED", 15, "the task is stopped")
    done = client.post(MULTIPLY, json=factors(6, 7)).json()["id"]
    assert httpx.delete(f"{cut_off.url}/v1/tasks/{done}").status_code == 409
    with worker.standing_still():
        queued = client.post(MULTIPLY + "/async", json=factors(SLEEP, 2)).headers["location"]
        for _ in range(2):
            response = httpx.delete(cut_off.url + queued)
            assert (response.status_code, response.json()["status"]) == (200, "REVOKED")
    task_id = queued.rsplit("/", 1)[1]
    wait_until(lambda: task_id in worker.log.read_text(), 15, "the worker meets the message")
    assert client.post(MULTIPLY, json=factors(6, 7)).json()["result"] == 42
    assert f"{task_id}] succeeded" not in worker.log.read_text()


def test_what_has_ended_or_is_unknown_cannot_be_cancelled(client: httpx.Client) -> None:
    task_id = client.post(MULTIPLY, json=factors(6, 7)).json()["id"]
    response = client.delete(f"/v1/tasks/{task_id}")
    assert (response.status_code, response.json()["taskId"]) == (409, task_id)
    assert client.delete(f"/v1/tasks/{uuid.uuid4()}").status_code == 404
    assert client.delete("/v1/tasks/abc").status_code == 422


def test_an_upper_case_id_is_the_same_task(client: httpx.Client) -> None:
    task_id = client.post(MULTIPLY, json=factors(6, 7)).json()["id"]
    assert client.get(f"/v1/tasks/{task_id.upper()}").json()["id"] == task_id


def test_many_clients_get_their_own_results(client: httpx.Client) -> None:
    results: dict[int, int] = {}

    def multiply(number: int) -> None:
        response = client.post(MULTIPLY, json=factors(number, 3))
        results[number] = response.json()["result"]

    threads = [threading.Thread(target=multiply, args=(number,)) for number in range(1, 41)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: number * 3 for number in range(1, 41)}


def test_the_sum_of_a_thousand_integers(client: httpx.Client) -> None:
    response = client.post(SUM, json={"integers": list(range(1000))})
    assert response.json()["result"] == 499_500
