"""Idempotency-Key on tasks and workflows: one request, one task, whichever API process it reaches."""

import asyncio
import os
import uuid
from collections import Counter

import httpx
import pytest
import redis
from processes import Api, Worker, wait_until
from worker_app import FAIL, SLEEP

MULTIPLY = "/v1/project-worker/integer-multiplication"
SUM = "/v1/project-worker/integers-sum"


def new_key() -> dict[str, str]:
    return {"Idempotency-Key": f'"{uuid.uuid4()}"'}


def factors(multiplicand: int, multiplier: int) -> dict[str, int]:
    return {"multiplicand": multiplicand, "multiplier": multiplier}


def executions(client: httpx.Client, worker: Worker, task_id: str) -> int:
    """How often a task has been run, once all messages that were sent before have had their turn."""
    # The queue is first in, first out: when this one is through, the others have been received.
    assert client.post(MULTIPLY, json=factors(6, 7)).status_code == 200

    def lines(end: str) -> int:
        return worker.log.read_text().count(f"[{task_id}] {end}")

    wait_until(
        lambda: lines("received") == lines("succeeded") + lines("has finished before"),
        10,
        "each message is worked",
    )
    return lines("succeeded")


def stored_keys() -> "redis.Redis":
    return redis.Redis(
        port=int(os.environ["REDIS_PORT"]), password=os.environ["REDIS_PASSWORD"], db=int(os.environ["REDIS_DB"])
    )


def test_fifty_at_once_are_one_task(client: httpx.Client, worker: Worker, api: Api, second_api: Api) -> None:
    key = new_key()
    urls = [f"{process.url}{MULTIPLY}{twin}" for process in (api, second_api) for twin in ("", "/async")]

    async def post_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=20) as http:
            return await asyncio.gather(
                *(
                    http.post(urls[number % len(urls)], json=factors(SLEEP, 300), headers=key)
                    for number in range(50)
                )
            )

    answers = asyncio.run(post_all())
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {200, 202, 409}, statuses
    assert statuses[200] + statuses[202] > 0
    (task_id,) = {answer.json()["id"] for answer in answers if answer.status_code != 409}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 409)
    assert executions(client, worker, task_id) == 1
    after = [httpx.post(url, json=factors(SLEEP, 300), headers=key) for url in urls]
    assert [answer.status_code for answer in after] == [200, 202, 200, 202]
    assert {answer.json()["id"] for answer in after} == {task_id}
    assert after[0].content == after[2].content
    assert after[0].json()["result"] == SLEEP * 300


def test_another_request_is_refused(client: httpx.Client) -> None:
    key = new_key()
    first = client.post(MULTIPLY, json=factors(6, 7), headers=key)
    for path, body in ((MULTIPLY, factors(6, 8)), (SUM, factors(6, 7)), (MULTIPLY + "?a=b", factors(6, 7))):
        answer = client.post(path, json=body, headers=key)
        assert answer.status_code == 422
    problem = client.post(MULTIPLY, json=factors(6, 8), headers=key).json()
    assert problem["title"] == "Idempotency-Key is already used"
    assert client.post(MULTIPLY, json=factors(6, 7), headers=key).content == first.content


def test_a_repeat_is_answered_as_it_prefers(client: httpx.Client) -> None:
    key = new_key()
    accepted = client.post(MULTIPLY, json=factors(SLEEP, 700), headers={**key, "Prefer": "respond-async"})
    assert accepted.status_code == 202
    again = client.post(MULTIPLY + "/async", json=factors(SLEEP, 700), headers=key)
    assert (again.status_code, again.headers["location"]) == (202, accepted.headers["location"])
    waited = client.post(MULTIPLY, json=factors(SLEEP, 700), headers={**key, "Prefer": "wait=10"})
    assert (waited.status_code, waited.json()["id"]) == (200, accepted.json()["id"])
    assert waited.json()["result"] == SLEEP * 700


def test_a_key_without_quotes_is_the_same_key(client: httpx.Client) -> None:
    key = str(uuid.uuid4())
    answers = [
        client.post(MULTIPLY, json=factors(6, 7), headers={"Idempotency-Key": value})
        for value in (key, f'"{key}"')
    ]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_repeat_does_not_revive_a_task_that_took_too_long(client: httpx.Client) -> None:
    headers = {**new_key(), "Prefer": "wait=1"}
    first = client.post(MULTIPLY, json=factors(SLEEP, 20_000), headers=headers)
    assert first.status_code == 504
    again = client.post(MULTIPLY, json=factors(SLEEP, 20_000), headers=headers)
    assert (again.status_code, again.json()["title"]) == (409, "Task revoked")
    assert again.json()["taskId"] == first.json()["taskId"]


def test_a_repeat_of_a_failure_fails_alike(client: httpx.Client) -> None:
    key = new_key()
    answers = [client.post(MULTIPLY, json=factors(FAIL, -1), headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [502, 502]
    assert answers[0].json()["taskId"] == answers[1].json()["taskId"]
    assert answers[0].json()["code"] == answers[1].json()["code"] == "too-small"


@pytest.mark.parametrize(
    ("workflow", "result"), [("chain", 5**3), ("group", [5, 10, 15]), ("chord", 5 + 10 + 15)]
)
def test_a_workflow_is_sent_once(
    client: httpx.Client, worker: Worker, workflow: str, result: int | list[int]
) -> None:
    path, body, key = f"/v1/workflows/{workflow}", {"integer": 5, "n": 3}, new_key()
    before = worker.log.read_text().count("] succeeded")
    answers = [client.post(path, json=body, headers=key) for _ in range(3)]
    assert [(answer.status_code, answer.json()["result"]) for answer in answers] == [(200, result)] * 3
    assert len({answer.content for answer in answers}) == 1
    assert worker.log.read_text().count("] succeeded") - before <= 4


def test_a_key_is_known_for_a_day(client: httpx.Client) -> None:
    key = str(uuid.uuid4())
    client.post(MULTIPLY + "/async", json=factors(6, 7), headers={"Idempotency-Key": key})
    with stored_keys() as store:
        assert 24 * 3600 - 60 < store.ttl(f"idempotency:{key}") <= 24 * 3600


def test_what_is_not_valid_claims_no_key(client: httpx.Client) -> None:
    key = new_key()
    assert client.post(MULTIPLY, json=factors(6, 2**60), headers=key).status_code == 422
    assert client.post(MULTIPLY, json=factors(6, 7), headers=key).status_code == 200


@pytest.mark.parametrize(
    "value", ["", '""', "x" * 256, '"' + "x" * 256 + '"', "x" * 300, "a\tb", '"a', 'a"b', "a,b", '"a";b', "é"]
)
def test_a_bad_key_is_400(client: httpx.Client, value: str) -> None:
    answer = client.post(MULTIPLY, json=factors(6, 7), headers={b"Idempotency-Key": value.encode()})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert "UUID" in answer.json()["detail"]


def test_several_keys_are_400(client: httpx.Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert client.post(MULTIPLY, json=factors(6, 7), headers=headers).status_code == 400


def test_whatever_creates_documents_the_key(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    creating = [path for path in paths if "post" in paths[path] and not path.startswith("/v1/dead-letters")]
    assert len(creating) > 10
    for path in creating:
        names = [parameter["name"].lower() for parameter in paths[path]["post"].get("parameters", [])]
        assert names.count("idempotency-key") == 1, path
        assert {"400", "409", "422"} <= set(paths[path]["post"]["responses"]), path
