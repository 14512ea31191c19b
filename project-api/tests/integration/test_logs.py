"""JSON lines of the API and of a worker: one request's id on all that was done for it."""

import json
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from log_store import declared, log_store, template
from places import CITIES, COUNTRIES, GERMANY, MUNICH, created
from processes import COMMAND, Api, Worker, running_api, running_reaper, wait_until
from virtual_hosts import own_virtual_host
from worker_app import DIE, cure_of

WORKER = COMMAND.replace("country_worker_app", "logged_worker_app").replace(",sums", "")
REQUIRED = {
    "@timestamp",
    "log.level",
    "message",
    "ecs.version",
    "log.logger",
    "service.name",
    "service.version",
    "service.environment",
    "event.dataset",
}
Line = dict[str, Any]


@pytest.fixture(scope="module")
def virtual_host() -> Iterator[str]:
    with own_virtual_host("logs") as name:
        yield name


@pytest.fixture(scope="module")
def like_the_real_one(virtual_host: str) -> Iterator[None]:
    """What the worker's processes find in their environment."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {"RABBITMQ_VHOST": virtual_host, "LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"}.items():
            environment.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def logging_worker(tmp_path_factory: pytest.TempPathFactory, like_the_real_one: None) -> Iterator[Worker]:
    running = Worker(tmp_path_factory.mktemp("logging-worker") / "log", WORKER)
    try:
        wait_until(running.ready, 30, "the worker is ready")
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def reaper_log(
    tmp_path_factory: pytest.TempPathFactory, like_the_real_one: None, logging_worker: Worker
) -> Iterator[Path]:
    log = tmp_path_factory.mktemp("logging-reaper") / "log"
    with running_reaper(log, "logged_worker_app:app"):
        yield log


@pytest.fixture(scope="module")
def logging_api(tmp_path_factory: pytest.TempPathFactory, virtual_host: str) -> Iterator[Api]:
    log = tmp_path_factory.mktemp("logging-api") / "log"
    # In production JSON is the default.
    with running_api(log, RABBITMQ_VHOST=virtual_host, ENVIRONMENT="production") as running:
        yield running


@pytest.fixture
def request_id() -> str:
    return f"request-{uuid.uuid4()}"


@pytest.fixture
def http(logging_api: Api, logging_worker: Worker, clean_tables: None, request_id: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=logging_api.url, timeout=20, headers={"X-Request-ID": request_id}) as client:
        yield client


def lines(log: Path) -> list[Line]:
    text = log.read_text()
    # Before that, what Python says to root. The last line may be half written.
    written, _, _ = text[text.index('{"@timestamp"') :].rpartition("\n")
    return [json.loads(line) for line in written.splitlines() if line]


def lines_of(log: Path, request_id: str) -> list[Line]:
    return [line for line in lines(log) if line.get("http.request.id") == request_id]


def access_line(api: Api, request_id: str) -> Line:
    """The request's only line, which is written after its answer."""
    wait_until(lambda: bool(lines_of(api.log, request_id)), 20, "the request's line is there")
    [line] = lines_of(api.log, request_id)
    return line


def dead_letters(reaper_log: Path, request_id: str) -> list[Line]:
    """The reaper's lines about the request's tasks that died; it may not have begun to write."""
    if '{"@timestamp"' not in reaper_log.read_text():
        return []
    return [line for line in lines_of(reaper_log, request_id) if line.get("event.action") == "task-dead-letter"]


def finished(worker: Worker, request_id: str) -> set[str]:
    """The tasks of the request that have succeeded."""
    return {
        line["celery.task.id"]
        for line in lines_of(worker.log, request_id)
        if line.get("event.action") == "task-succeeded"
    }


def test_an_access_line_tells_all_about_a_request(http: httpx.Client, logging_api: Api, request_id: str) -> None:
    http.get("/v1/tasks/none", params={"password": "hunter2"})
    line = access_line(logging_api, request_id)
    assert line["message"].startswith("GET /v1/tasks/none 4")
    assert (line["event.dataset"], line["log.logger"]) == ("fsfc.access", "app.access")
    assert (line["http.request.method"], line["url.path"]) == ("GET", "/v1/tasks/none")
    assert (line["http.route"], line["http.response.status_code"]) == ("/v1/tasks/{task_id}", 422)
    assert 0 < line["event.duration"] < 5e9  # ns
    assert "hunter2" not in logging_api.log.read_text()


def test_a_task_s_lines_carry_its_request_s_id(
    http: httpx.Client, logging_api: Api, logging_worker: Worker, request_id: str
) -> None:
    answer = http.post("/v1/project-worker/integer-multiplication", json={"multiplicand": 6, "multiplier": 7})
    assert answer.status_code == 200, answer.text
    wait_until(lambda: len(finished(logging_worker, request_id)) == 1, 20, "the line is there")
    actions = {line.get("event.action") for line in lines_of(logging_worker.log, request_id)}
    assert {"task-received", "task-succeeded"} <= actions
    access = access_line(logging_api, request_id)
    assert access["event.dataset"] == "fsfc.access"
    assert {access["celery.task.id"]} == finished(logging_worker, request_id)


@pytest.mark.parametrize(
    ("path", "document", "tasks"),
    [
        ("chain", {"integer": 2, "n": 4}, 4),
        ("chord", {"integer": 2, "n": 3}, 4),
    ],
)
def test_a_workflow_s_tasks_carry_its_request_s_id(
    http: httpx.Client,
    logging_api: Api,
    logging_worker: Worker,
    request_id: str,
    path: str,
    document: dict[str, int],
    tasks: int,
) -> None:
    answer = http.post(f"/v1/workflows/{path}", json=document)
    assert answer.status_code == 200, answer.text
    wait_until(lambda: len(finished(logging_worker, request_id)) == tasks, 20, "all lines are there")
    access = access_line(logging_api, request_id)
    assert access["celery.task.id"] in finished(logging_worker, request_id)


def test_a_retry_carries_its_request_s_id(http: httpx.Client, logging_worker: Worker, request_id: str) -> None:
    answer = http.post("/v1/project-worker/integers-sum", json={"integers": [1, 2]})
    assert answer.status_code == 200, answer.text
    wait_until(lambda: len(finished(logging_worker, request_id)) == 1, 20, "the line is there")
    about = lines_of(logging_worker.log, request_id)
    assert {line["celery.task.retries"] for line in about} == {0, 1}
    assert "task-retried" in {line.get("event.action") for line in about}


def test_the_outbox_s_task_carries_its_request_s_id(
    http: httpx.Client, logging_api: Api, logging_worker: Worker, request_id: str
) -> None:
    created(http, COUNTRIES, GERMANY)
    created(http, CITIES, MUNICH)
    wait_until(lambda: len(finished(logging_worker, request_id)) == 1, 20, "the relay has sent it, and it ran")
    [line] = [
        line for line in lines_of(logging_worker.log, request_id) if line.get("event.action") == "task-succeeded"
    ]
    assert line["celery.task.name"] == "project-worker.country_statistics"

    def is_told_by_its_request() -> bool:
        lines = lines_of(logging_api.log, request_id)
        return line["celery.task.id"] in {each.get("celery.task.id") for each in lines}

    wait_until(is_told_by_its_request, 20, "the request's line, which is written after its answer")


def test_an_import_s_tasks_carry_its_request_s_id(
    http: httpx.Client, logging_worker: Worker, request_id: str
) -> None:
    created(http, COUNTRIES, GERMANY)
    csv = "geonameid,name,country_code,latitude,longitude,timezone\n1,A,DE,1,1,Europe/Berlin\n"
    answer = http.post("/v1/imports", content=csv, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 202, answer.text
    wait_until(lambda: len(finished(logging_worker, request_id)) == 2, 20, "it is loaded and finished")


def test_a_dead_letter_and_its_replay_carry_their_request_s_id(
    http: httpx.Client, logging_api: Api, logging_worker: Worker, reaper_log: Path, request_id: str
) -> None:
    dose = random.randrange(10**12)
    answer = http.post(
        "/v1/project-worker/integer-multiplication",
        json={"multiplicand": DIE, "multiplier": dose},
        headers={"Prefer": "wait=30"},
        timeout=60,
    )
    assert answer.status_code == 502, answer.text
    task_id = answer.json()["taskId"]
    letter = f"/v1/dead-letters/{task_id}"
    wait_until(lambda: http.get(letter).status_code == 200, 20, "it is parked")
    wait_until(
        lambda: bool(dead_letters(reaper_log, request_id)), 20, "the reaper has told it, after it parked it"
    )
    [dead] = dead_letters(reaper_log, request_id)
    assert dead["celery.task.id"] == task_id
    cure_of(dose).touch()
    try:
        replay = f"replay-{uuid.uuid4()}"
        assert http.post(f"{letter}/replay", headers={"X-Request-ID": replay}).status_code == 202
        wait_until(lambda: task_id in finished(logging_worker, request_id), 20, "it ran")
    finally:
        cure_of(dose).unlink()
    access = access_line(logging_api, replay)
    assert access["celery.task.id"] == task_id


def test_every_line_is_json_with_the_required_fields(
    http: httpx.Client, logging_api: Api, logging_worker: Worker
) -> None:
    http.get("/health/live")
    for log, datasets in (
        (logging_api.log, {"fsfc.access", "fsfc.app"}),
        (logging_worker.log, {"fsfc.task", "fsfc.app"}),
    ):
        assert [line for line in lines(log) if not line.keys() >= REQUIRED] == []
        assert {line["event.dataset"] for line in lines(log)} == datasets
    # uvicorn's own loggers, too; and nothing before them.
    assert "uvicorn.error" in {line["log.logger"] for line in lines(logging_api.log)}
    assert logging_api.log.read_text().startswith('{"@timestamp"')


def test_every_line_is_stored_as_declared_and_the_saved_searches_find_the_right_ones(
    http: httpx.Client, logging_api: Api, logging_worker: Worker, reaper_log: Path, request_id: str
) -> None:
    dead = f"{request_id}-dead"
    headers = {"X-Request-ID": dead, "Prefer": "wait=30"}
    document = {"multiplicand": DIE, "multiplier": random.randrange(10**12)}
    path = "/v1/project-worker/integer-multiplication"
    assert http.post(path, json=document, headers=headers, timeout=60).status_code == 502
    answer = http.post("/v1/project-worker/integers-sum", json={"integers": [1, 2]})
    assert answer.status_code == 200, answer.text
    wait_until(lambda: len(finished(logging_worker, request_id)) == 1, 20, "the task's line is there")
    wait_until(lambda: bool(lines_of(logging_api.log, dead)), 20, "the lost request's line is there")
    wait_until(lambda: bool(lines_of(logging_api.log, request_id)), 20, "the other's line is there")

    wait_until(lambda: bool(dead_letters(reaper_log, dead)), 20, "the dead letter's line is there")
    [task_id] = finished(logging_worker, request_id)
    written = [line for log in (logging_api.log, logging_worker.log, reaper_log) for line in lines(log)]
    # As other lines have it.
    written.append({**written[0], "labels.log_error": "ValueError: no", "labels.error": "{}"})

    with log_store() as store:
        assert store.add(written) == []
        assert store.types().items() >= {name: {kind} for name, kind in fields_of(written).items()}.items()
        one_request = {n for n, line in enumerate(written) if line.get("http.request.id") == request_id}
        assert store.search("projects-one-request", request_id) == one_request
        assert {written[n]["service.name"] for n in one_request} == {
            "full-stack-fastapi-celery",
            "project-worker",
        }
        one_task = store.search("projects-one-task", task_id)
        assert one_task == {n for n, line in enumerate(written) if task_id in about_tasks(line)}
        assert {written[n]["event.dataset"] for n in one_task} == {"fsfc.access", "fsfc.task"}
        errors = store.search("projects-errors")
        assert errors == {n for n, line in enumerate(written) if is_a_problem(line)}
        assert {written[n].get("event.action") for n in errors} >= {"http-request", "task-dead-letter"}


def fields_of(written: list[Line]) -> dict[str, str]:
    """The declared type of each field that is written; `labels` are one."""
    types = declared(template()["template"]["mappings"])
    names = {"labels" if name.startswith("labels.") else name for line in written for name in line}
    assert names <= types.keys()
    return {name: types[name] for name in names}


def about_tasks(line: Line) -> set[str]:
    """The tasks that a line names."""
    found: set[str] = set()
    for name in ("celery.task.id", "celery.task.root_id", "celery.task.parent_id"):
        value = line.get(name, [])
        found.update([value] if isinstance(value, str) else value)
    return found


def is_a_problem(line: Line) -> bool:
    return line["log.level"] in ("error", "critical") or line.get("event.outcome") == "failure"
