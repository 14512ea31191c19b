"""What has ended, as a list; and one task's life, step by step."""

import json
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest
import redis
from processes import Worker, wait_until
from worker_app import FAIL, SLEEP

MULTIPLY = "/v1/project-worker/integer-multiplication"
TASKS = "/v1/tasks"
STEPS = ["accepted", "confirmed", "received", "started", "finished", "stored", "delivered"]


def ended(client: httpx.Client, **query: str | int) -> Iterator[dict[str, Any]]:
    """Every task of the list, page by page."""
    while True:
        page = client.get(TASKS, params=query).json()
        yield from page["tasks"]
        if page["cursor"] is None:
            return
        query["cursor"] = page["cursor"]


def multiply(client: httpx.Client, multiplicand: int, multiplier: int) -> str:
    answer = client.post(MULTIPLY, json={"multiplicand": multiplicand, "multiplier": multiplier}).json()
    task_id: str = answer["id"] if "id" in answer else answer["taskId"]
    return task_id


def redis_connection() -> redis.Redis:
    return redis.Redis(
        host=os.environ["REDIS_HOST"],
        port=int(os.environ["REDIS_PORT"]),
        password=os.environ["REDIS_PASSWORD"],
        db=int(os.environ["REDIS_DB"]),
    )


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def test_what_has_ended_is_listed_newest_first_page_by_page(client: httpx.Client) -> None:
    before = now()
    sent = [multiply(client, FAIL if n == 3 else n, 7) for n in range(7)]
    after = now()
    multiply(client, 6, 7)
    listed = list(ended(client, since=before, until=after, limit=3))
    assert [task["id"] for task in listed] == sent[::-1]
    assert [task["status"] for task in listed] == ["SUCCESS"] * 3 + ["FAILURE"] + ["SUCCESS"] * 3
    failed = listed[3]
    assert (failed["error"], failed["attempts"], failed["queue"]) == ("ValueError", 1, "project-worker")
    assert (failed["name"], failed["root_id"]) == ("project-worker.integer_multiplication", None)
    times = [failed[f"{what}_at"] for what in ("received", "started", "finished", "stored")]
    assert times == sorted(times)
    assert before < times[0] <= times[-1] < after
    only_failed = list(ended(client, since=before, status="FAILURE"))
    assert [task["id"] for task in only_failed] == [sent[3]]


def test_the_list_is_filtered_by_name(client: httpx.Client) -> None:
    before = now()
    workflow = client.post("/v1/workflows/chord", json={"integer": 5, "n": 2}).json()["id"]
    sums = list(ended(client, since=before, name="project-worker.integers_sum"))
    assert [(task["id"], task["root_id"]) for task in sums] == [(workflow, None)]
    products = list(ended(client, since=before, name="project-worker.integer_multiplication"))
    assert [task["root_id"] for task in products] == [workflow] * 2
    assert list(ended(client, since=before, name="project-worker")) == []


def test_what_was_cancelled_in_its_queue_is_listed_too(client: httpx.Client, worker: Worker) -> None:
    before = now()
    with worker.standing_still():
        location = client.post(f"{MULTIPLY}/async", json={"multiplicand": 6, "multiplier": 7}).headers["location"]
        assert client.delete(location).json()["status"] == "REVOKED"
    wait_until(lambda: bool(list(ended(client, since=before, status="REVOKED"))), 15, "it is listed")
    (task,) = ended(client, since=before, status="REVOKED")
    assert location.endswith(task["id"])


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=-1", 422),
        ("limit=101", 422),
        ("limit=1000000000", 422),
        ("limit=abc", 422),
        ("limit=", 422),
        ("limit=1.5", 422),
        ("status=QUEUED", 422),
        ("status=success", 422),
        ("status=", 422),
        ("name=", 422),
        ("name=" + "x" * 256, 422),
        ("since=0", 422),
        ("since=1777900029123", 422),
        ("since=yesterday", 422),
        ("since=2026-05-04", 422),
        ("since=2026-05-04T13:07:09", 422),
        ("until=2026-13-04T13:07:09Z", 422),
        ("until=2026-05-04T13:07:09%2B24:00", 422),
        ("until=2026-05-04T13:07:09+00:00", 422),  # a bare + is a space
        ("cursor=", 400),
        ("cursor=abc", 400),
        ("cursor=-", 400),
        ("cursor=(0-0", 400),
        ("cursor=1777900029123", 400),
        ("cursor=1-1%0D%0A", 400),
        ("cursor=99999999999999999999-0", 400),
        ("cursor=%D9%A1-%D9%A1", 400),
        ("cursor=0-0", 200),
        ("cursor=9999999999999999999-9999999999999999999", 200),
        ("since=0001-01-01T00:00:00%2B23:59&until=9999-12-31T23:59:59-23:59", 200),
        ("since=2026-05-04t13:07:09.123456789z", 200),
        ("since=2026-05-04T13:07:09Z&until=2026-05-03T13:07:09Z", 200),
        ("name=%00%0D%0A*&limit=100", 200),
    ],
)
def test_what_is_asked_of_the_list_is_checked(client: httpx.Client, query: str, status: int) -> None:
    response = client.get(f"{TASKS}?{query}")
    assert response.status_code == status, response.text
    assert status == 200 or response.headers["content-type"] == "application/problem+json"


def timeline(client: httpx.Client, task_id: str, *steps: str) -> dict[str, Any]:
    """A task's timeline, once it has these steps: the API writes its own in the background."""

    def read() -> dict[str, Any]:
        document: dict[str, Any] = client.get(f"{TASKS}/{task_id}/timeline").json()
        return document

    wanted = set(steps or STEPS)
    wait_until(lambda: wanted <= {step["step"] for step in read()["steps"]}, 15, f"{wanted} are written")
    return read()


def known(document: dict[str, Any]) -> list[str]:
    """The steps but `published`, which depends on who published."""
    return [step["step"] for step in document["steps"] if step["step"] != "published"]


def test_a_timeline_has_every_step(client: httpx.Client) -> None:
    before = now()
    document = timeline(client, multiply(client, SLEEP, 200))
    assert (document["name"], document["status"]) == ("project-worker.integer_multiplication", "SUCCESS")
    assert known(document) == STEPS
    steps = {step["step"]: step for step in document["steps"]}
    assert document["steps"][0]["milliseconds"] is None
    assert steps["finished"]["milliseconds"] > 195
    assert before[:23] <= steps["accepted"]["at"][:23] < steps["finished"]["at"][:23] <= now()[:23]
    moments = [datetime.fromisoformat(step["at"]) for step in document["steps"]]
    assert all(moment.utcoffset() is not None for moment in moments)
    # A worker may be faster than the confirm.
    took = [max(0, (later - earlier).total_seconds() * 1000) for earlier, later in pairwise(moments)]
    assert [step["milliseconds"] for step in document["steps"][1:]] == pytest.approx(took, abs=1.1)
    assert document["clock_difference"] is None


@pytest.mark.parametrize("ahead", [-60, 60])
def test_a_worker_s_clock_that_differs_is_told_and_nothing_is_negative(client: httpx.Client, ahead: int) -> None:
    task_id = multiply(client, SLEEP, 200)
    timeline(client, task_id)
    with redis_connection() as results:
        key = f"celery-task-meta-{task_id}"
        stored = json.loads(results.get(key) or b"")
        for step in ("received", "started", "finished"):
            stored["timeline"][step] += ahead
        results.set(key, json.dumps(stored), keepttl=True)
    document = client.get(f"{TASKS}/{task_id}/timeline").json()
    assert document["clock_difference"] == pytest.approx(60_000, abs=5_000)
    assert all(step["milliseconds"] >= 0 for step in document["steps"][1:])
    assert all(took >= 0 for took in document["durations"].values() if took is not None)
    assert 195 < document["durations"]["run"] < 5_000


def test_delivered_is_when_a_client_first_learns_the_end(client: httpx.Client) -> None:
    location = client.post(f"{MULTIPLY}/async", json={"multiplicand": FAIL, "multiplier": 7}).headers["location"]
    task_id = location.rsplit("/", 1)[1]
    assert known(timeline(client, task_id, *STEPS[:-1])) == STEPS[:-1]
    assert client.get(f"{location}/result").status_code == 502
    told = timeline(client, task_id)
    assert told["status"] == "FAILURE"
    assert client.get(location).json()["status"] == "FAILURE"
    multiply(client, 6, 7)  # whose own times are written after those of that second look
    timeline(client, multiply(client, 6, 7))
    assert timeline(client, task_id) == told


def test_a_queued_task_has_begun_its_timeline(client: httpx.Client, worker: Worker) -> None:
    with worker.standing_still():
        answer = client.post(f"{MULTIPLY}/async", json={"multiplicand": 6, "multiplier": 7}).json()
        document = timeline(client, answer["id"], "confirmed")
    assert (known(document), document["status"]) == (STEPS[:2], "QUEUED")
    assert timeline(client, answer["id"], "stored")["status"] == "SUCCESS"


@pytest.mark.parametrize("workflow", ["chain", "group", "chord"])
def test_the_timeline_of_a_workflow_holds_those_of_its_tasks(client: httpx.Client, workflow: str) -> None:
    task_id = client.post(f"/v1/workflows/{workflow}", json={"integer": 5, "n": 3}).json()["id"]
    document = timeline(client, task_id)
    assert known(document) == STEPS
    leaves = [leaf for child in document["children"] for leaf in child["children"] or [child]]
    assert len(leaves) == (4 if workflow == "chord" else 3)
    for leaf in leaves:
        assert known(leaf) == STEPS[2:-1]
    of_tasks = {step["step"]: [s["at"] for leaf in leaves for s in leaf["steps"] if s["step"] == step["step"]]
                for step in document["steps"]}  # fmt: skip
    whole = {step["step"]: step["at"] for step in document["steps"]}
    assert whole["started"] == min(of_tasks["started"])
    assert whole["finished"] == max(of_tasks["finished"])


def test_the_timeline_of_nothing(client: httpx.Client) -> None:
    assert client.get(f"{TASKS}/{uuid.uuid4()}/timeline").status_code == 404
    for nonsense in ("abc", "*", "%0d%0a", "0" * 33):
        assert client.get(f"{TASKS}/{nonsense}/timeline").status_code == 422, nonsense
