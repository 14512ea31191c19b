"""Workflows over HTTP: one id, one result, every child listed."""

from typing import Any

import httpx
import pytest
from processes import wait_until
from worker_app import FAIL, SLEEP


@pytest.mark.parametrize(
    ("workflow", "integer", "n", "expected"),
    [
        ("chain", 2, 10, 1024),
        ("chain", 7, 1, 7),
        ("chain", -3, 3, -27),
        ("group", 5, 3, [5, 10, 15]),
        ("group", 5, 1, [5]),
        ("chord", 5, 4, 50),
        ("chord", 5, 1, 5),
    ],
)
def test_a_workflow_gives_its_result(
    client: httpx.Client, workflow: str, integer: int, n: int, expected: object
) -> None:
    response = client.post(f"/v1/workflows/{workflow}", json={"integer": integer, "n": n})
    assert response.status_code == 200, response.text
    assert response.json()["result"] == expected
    document = client.get(f"/v1/tasks/{response.json()['id']}").json()
    assert document["status"] == "SUCCESS"
    assert document["result"] == expected
    tasks = n + 1 if workflow == "chord" else n
    assert [task["status"] for task in leaves(document)] == ["SUCCESS"] * tasks


def leaves(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a workflow without the groups and chains that hold them."""
    children = document["children"]
    return [leaf for child in children for leaf in leaves(child)] if children else [document]


@pytest.mark.parametrize("workflow", ["chain", "group", "chord"])
def test_a_failing_member_fails_the_workflow(client: httpx.Client, workflow: str) -> None:
    # In a chain the second multiplication is the one whose multiplicand is FAIL.
    response = client.post(f"/v1/workflows/{workflow}", json={"integer": FAIL, "n": 3})
    assert response.status_code == 502
    assert "told to fail" in response.text
    task_id = response.json()["taskId"]
    document = client.get(f"/v1/tasks/{task_id}").json()
    assert document["status"] == "FAILURE"
    assert "FAILURE" in {task["status"] for task in leaves(document)}
    assert client.get(f"/v1/tasks/{task_id}/result").status_code == 502


def test_a_workflow_can_be_followed(client: httpx.Client) -> None:
    response = client.post(
        "/v1/workflows/chord", json={"integer": 5, "n": 20}, headers={"Prefer": "respond-async"}
    )
    assert response.status_code == 202
    location = response.headers["location"]
    assert client.get(location).json()["status"] in ("QUEUED", "STARTED", "SUCCESS")
    wait_until(lambda: client.get(location).json()["status"] == "SUCCESS", 10, "the workflow succeeds")
    assert client.get(location + "/result").json()["result"] == 5 * 20 * 21 // 2


def test_cancelling_a_workflow_cancels_every_child(client: httpx.Client) -> None:
    location = client.post("/v1/workflows/group/async", json={"integer": SLEEP, "n": 100}).headers["location"]
    response = client.delete(location)
    assert (response.status_code, response.json()["status"]) == (200, "REVOKED")
    wait_until(
        lambda: {task["status"] for task in leaves(client.get(location).json())} <= {"REVOKED", "SUCCESS"},
        15,
        "every child has ended",
    )
    assert "REVOKED" in {task["status"] for task in leaves(client.get(location).json())}
