"""JSON lines of a real worker: every one of them, and one request's id on all that is about its tasks."""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import Signature
from worker_process import RunningWorker, running_worker, wait_until

from project_contracts.headers import REQUEST_ID

COMMAND = "-A logs_app:app worker -Q project-worker --concurrency=2 -n logs@%h --without-gossip --without-mingle"
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
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    with running_worker(
        tmp_path_factory.mktemp("logs"),
        COMMAND,
        Path(__file__).parent,
        LOG_FORMAT="json",
        LOG_LEVEL="DEBUG",
        TASK_MAX_RETRIES=1,
    ) as running:
        yield running


@pytest.fixture
def request_id() -> str:
    return f"request-{uuid.uuid4()}"


def named(worker: RunningWorker, request_id: str, name: str, *args: object) -> Signature[Any]:
    """A task as the API names it: each of a workflow has the header of the request."""
    return worker.client.signature(name, args=args, immutable=True, options={"headers": {REQUEST_ID: request_id}})


def lines(worker: RunningWorker) -> list[Line]:
    # What Python says before Celery sets up logging, as root: it goes to stderr.
    text = worker.log.read_text()
    written, _, _ = text[text.index('{"@timestamp"') :].rpartition("\n")  # the last line may be half written
    return [json.loads(line) for line in written.splitlines()]


def lines_of(worker: RunningWorker, request_id: str) -> list[Line]:
    return [line for line in lines(worker) if line.get("http.request.id") == request_id]


def actions(worker: RunningWorker, task_id: str) -> list[str]:
    about = [line for line in lines(worker) if line.get("celery.task.id") == task_id]
    return [line["event.action"] for line in about if "event.action" in line]


def the_line(worker: RunningWorker, task_id: str, action: str) -> Line:
    wait_until(lambda: action in actions(worker, task_id), 20)
    return next(
        line
        for line in lines(worker)
        if line.get("celery.task.id") == task_id and line.get("event.action") == action
    )


def test_a_task_s_lines_tell_all_about_it(worker: RunningWorker, request_id: str) -> None:
    task = named(worker, request_id, "say", "hello").apply_async()
    assert task.get(timeout=10) == "hello"
    done = the_line(worker, task.id, "task-succeeded")
    assert done["celery.task.name"] == "say"
    assert done["celery.task.queue"] == "project-worker"
    assert done["celery.task.retries"] == 0
    assert done["celery.task.root_id"] == task.id
    assert done["http.request.id"] == done["trace.id"] == request_id
    assert (done["event.dataset"], done["event.outcome"]) == ("fsfc.task", "success")
    assert 0 < done["event.duration"] < 1e9  # ns
    received = the_line(worker, task.id, "task-received")
    assert (received["process.name"], received["http.request.id"]) == ("MainProcess", request_id)
    assert received["celery.task.queue"] == "project-worker"
    own = {line["message"]: line for line in lines_of(worker, request_id)}
    assert own["said: hello"]["log.logger"] == "logs_app"
    assert own["printed: hello"]["log.logger"] == "celery.redirected"
    assert {own[text]["celery.task.id"] for text in ("said: hello", "printed: hello")} == {task.id}


def test_a_coroutine_s_lines_are_its_task_s_and_nobody_else_s(worker: RunningWorker) -> None:
    ids = [f"request-{uuid.uuid4()}" for _ in range(6)]
    for each in ids:
        named(worker, each, "say-async", each).apply_async().get(timeout=10)
    said = {
        line["message"]: line["http.request.id"] for line in lines(worker) if "said: request-" in line["message"]
    }
    assert said == {f"said: {each}": each for each in ids}


def test_one_id_goes_through_chain_chord_and_countdown(worker: RunningWorker, request_id: str) -> None:
    say = [named(worker, request_id, "say", f"step {step}") for step in range(5)]
    workflow = chain(
        say[0], chord(group(say[1:3], app=worker.client), say[3], app=worker.client), app=worker.client
    )
    workflow.apply_async().get(timeout=20)
    late = say[4].apply_async(countdown=1)
    late.get(timeout=20)
    assert the_line(worker, late.id, "task-succeeded")["celery.task.queue"] == "project-worker"
    wait_until(lambda: texts(worker, request_id) == {f"said: step {step}" for step in range(5)})


def texts(worker: RunningWorker, request_id: str) -> set[str]:
    return {line["message"] for line in lines_of(worker, request_id) if line["message"].startswith("said: ")}


def test_what_a_task_sends_carries_the_id(worker: RunningWorker, request_id: str) -> None:
    named(worker, request_id, "start-others").apply_async().get(timeout=20)
    expected = {f"said: {text}" for text in ("child", "member 1", "member 2", "body", "instead")}
    wait_until(lambda: texts(worker, request_id) == expected)


def test_a_retry_carries_the_id(worker: RunningWorker, request_id: str) -> None:
    task = named(worker, request_id, "stumble").apply_async()
    task.get(timeout=20)
    retried = the_line(worker, task.id, "task-retried")
    done = the_line(worker, task.id, "task-succeeded")
    assert [line["celery.task.retries"] for line in (retried, done)] == [0, 1]
    assert {line["http.request.id"] for line in (retried, done)} == {request_id}


def test_a_failure_is_short_and_keeps_no_secret(worker: RunningWorker, request_id: str) -> None:
    task = named(worker, request_id, "fail", 1_000_000).apply_async()
    with pytest.raises(ValueError, match="amqp"):
        task.get(timeout=10)
    failed = the_line(worker, task.id, "task-failed")
    assert (failed["error.type"], failed["event.outcome"]) == ("ValueError", "failure")
    assert failed["error.message"].startswith("amqp://user:**@host/ xxx")
    assert "in fail" in failed["error.stack_trace"]
    assert failed["http.request.id"] == request_id
    text = worker.log.read_text()
    assert max(map(len, text.splitlines())) < 60_000
    assert "hunter2" not in text
    assert not [line for line in lines(worker) if "data" in line or "data.args" in line]  # Celery's extras


@pytest.mark.parametrize(
    ("name", "options", "action"),
    [
        ("hang", {"soft_time_limit": 1, "time_limit": 2}, "task-soft-time-limit"),
        ("hang", {"soft_time_limit": 1, "time_limit": 2}, "task-time-limit"),
        ("die", {}, "task-failed"),
        ("say", {"args": ["too late"], "expires": -1}, "task-revoked"),
    ],
)
def test_the_main_process_s_lines_carry_the_id(
    worker: RunningWorker, request_id: str, name: str, options: dict[str, Any], action: str
) -> None:
    task = named(worker, request_id, name).set(immutable=False).apply_async(**options)
    line = the_line(worker, task.id, action)
    assert (line["process.name"], line["celery.task.name"]) == ("MainProcess", name)
    assert line["http.request.id"] == request_id
    if name == "die":
        assert line["error.type"] == "WorkerLostError"
        assert "signal 9" in line["error.message"]


def test_every_line_is_json_with_the_required_fields(worker: RunningWorker) -> None:
    wait_until(lambda: any(" ready." in line["message"] for line in lines(worker)))
    assert [line for line in lines(worker) if not line.keys() >= REQUIRED] == []
    assert {line["event.dataset"] for line in lines(worker)} <= {"fsfc.app", "fsfc.task"}
    text = worker.log.read_text()
    assert f":{os.environ['RABBITMQ_PASSWORD']}@" not in text
