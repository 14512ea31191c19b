"""The process: readiness, clients that leave, shutdown while clients wait, pages without internet."""

import re
import signal
import threading
import time
import uuid
from pathlib import Path

import database
import httpx
import pytest
from processes import Api, Worker, running_api, unused_port, wait_until
from worker_app import SLEEP

MULTIPLY = "/v1/project-worker/integer-multiplication"


def test_ready_names_each_dependency_with_its_latency(client: httpx.Client) -> None:
    response = client.get("/health/ready")
    assert response.status_code == 200, response.text
    checks = response.json()["checks"]
    assert set(checks) == {"broker", "result_backend", "database"}
    assert all(check["status"] == "up" and 0 < check["latency_seconds"] < 2 for check in checks.values())


@pytest.mark.parametrize(
    ("variable", "down"),
    [("RABBITMQ_PORT", "broker"), ("REDIS_PORT", "result_backend"), ("POSTGRES_PORT", "database")],
)
def test_a_dependency_that_is_down_is_named(tmp_path: Path, worker: Worker, variable: str, down: str) -> None:
    with running_api(tmp_path / "log", **{variable: unused_port()}) as api:
        assert httpx.get(api.url + "/health/live").status_code == 200
        started = time.monotonic()
        response = httpx.get(api.url + "/health/ready")
        assert time.monotonic() - started < 2
        assert response.status_code == 503
        assert "retry-after" in response.headers
        checks = response.json()["checks"]
        assert [name for name, check in checks.items() if check["status"] == "down"] == [down]
        started = time.monotonic()
        answer = httpx.post(api.url + MULTIPLY, json={"multiplicand": 6, "multiplier": 7})
        assert time.monotonic() - started < 2
        assert "127.0.0.1" not in response.text + answer.text
        # Tasks need no database.
        assert answer.status_code == (200 if down == "database" else 503), answer.text


def test_a_database_that_is_not_migrated_is_named(tmp_path: Path, worker: Worker) -> None:
    with database.empty_database() as name, running_api(tmp_path / "log", POSTGRES_DB=name) as api:

        def judge() -> None:
            checked = httpx.get(api.url + "/health/ready")
            down = checked.json()["checks"]["database"]
            assert (checked.status_code, down["status"]) == (503, "down")
            assert down["error"] == "the database is not migrated: run `alembic upgrade head` in project-api"

        judge()
        answer = httpx.get(api.url + "/v1/cities")
        assert (answer.status_code, answer.json()["title"]) == (503, "Database not migrated")
        assert database.alembic("upgrade", "head", POSTGRES_DB=name).returncode == 0
        assert httpx.get(api.url + "/health/ready").status_code == 200
        assert httpx.get(api.url + "/v1/cities").json()["items"] == []
        for revision, ready in (("0000", False), ("9999", True)):  # older; of the next version's API
            database.run("UPDATE alembic_version SET version_num = $1", revision, POSTGRES_DB=name)
            if ready:
                assert httpx.get(api.url + "/health/ready").status_code == 200
            else:
                judge()


def test_a_client_that_leaves_is_not_waited_for(client: httpx.Client, api: Api) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.post(
            MULTIPLY,
            json={"multiplicand": SLEEP, "multiplier": 1000},
            headers={"X-Request-ID": "leaves-early"},
            timeout=0.3,
        )
    wait_until(lambda: "[leaves-early] POST" in api.log.read_text(), 2, "the request ends")
    assert re.search(r"\[leaves-early\] POST \S+ 499", api.log.read_text())


@pytest.mark.parametrize(
    ("prefer", "state"),
    [
        ("wait=30", "SUCCESS"),
        ("wait=30, cancel-on-disconnect", "REVOKED"),
        ("cancel-on-disconnect, respond-async, wait=30", "REVOKED"),
    ],
)
def test_a_client_that_leaves_cancels_its_task_when_it_wants_to(
    client: httpx.Client, api: Api, worker: Worker, prefer: str, state: str
) -> None:
    request_id = f"leaves-{uuid.uuid4()}"
    with pytest.raises(httpx.ReadTimeout):
        client.post(
            MULTIPLY,
            json={"multiplicand": SLEEP, "multiplier": 1500},
            headers={"X-Request-ID": request_id, "Prefer": prefer},
            timeout=0.5,
        )
    wait_until(lambda: f"[{request_id}] POST" in api.log.read_text(), 5, "the request ends")
    assert re.search(rf"\[{request_id}\] POST \S+ 499", api.log.read_text())
    location = "/v1/tasks/" + re.findall(r"\[([0-9a-f-]{36})\] received", worker.log.read_text())[-1]
    wait_until(lambda: client.get(location).json()["status"] == state, 5, f"the task is {state}")


def test_cancelling_on_disconnect_is_confirmed_where_there_is_a_wait(client: httpx.Client) -> None:
    applied = {
        prefer: client.post(
            MULTIPLY, json={"multiplicand": 6, "multiplier": 7}, headers={"Prefer": prefer}
        ).headers.get("preference-applied")
        for prefer in (
            "cancel-on-disconnect",
            "cancel-on-disconnect, wait=5",
            "respond-async, cancel-on-disconnect",
        )
    }
    assert list(applied.values()) == ["cancel-on-disconnect", "wait=5, cancel-on-disconnect", "respond-async"]


@pytest.mark.parametrize(("prefer", "status"), [("wait=30", 503), ("respond-async, wait=30", 202)])
def test_sigterm_answers_those_who_wait(tmp_path: Path, worker: Worker, prefer: str, status: int) -> None:
    with running_api(tmp_path / "log") as api:
        answers: list[httpx.Response] = []

        def wait_long() -> None:
            answers.append(
                httpx.post(
                    api.url + MULTIPLY,
                    json={"multiplicand": SLEEP, "multiplier": 3000},
                    headers={"Prefer": prefer},
                    timeout=30,
                )
            )

        client = threading.Thread(target=wait_long)
        client.start()
        wait_until(lambda: "received" in worker.log.read_text().splitlines()[-1], 5, "the task has started")
        api.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        client.join(10)
        api.process.wait(10)
        assert time.monotonic() - started < 10
        assert [answer.status_code for answer in answers] == [status]
        assert answers[0].json().get("taskId" if status == 503 else "id")


def test_docs_need_no_other_host(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) >= 3
    for asset in assets:
        assert asset.startswith("/"), asset
        assert client.get(asset).status_code == 200


def test_every_operation_documents_its_statuses(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            documented = set(operation["responses"])
            assert "500" in documented, (method, path)
            if path.startswith(("/v1/project-worker", "/v1/workflows")):
                assert {"202", "400", "413", "415", "422", "503"} <= documented, path
                assert path.endswith("/async") != ({"200", "409", "502", "504"} <= documented), path
