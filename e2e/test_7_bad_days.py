"""Bad days of `./stack` itself: a busy port, an interrupted `up`, a killed supervisor; and what `down` leaves."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest
from clone import Clone, wait_until


def test_a_busy_port_is_named_with_its_owner_and_its_variable(stack: Clone) -> None:
    stack.must("stop", "project-api")
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", stack.ports["API_PORT"]))
        thief.listen()
        result = stack.stack("up")
    assert result.returncode != 0
    for word in (str(stack.ports["API_PORT"]), "API_PORT", str(os.getpid())):
        assert word in result.stdout, result.stdout
    assert "Traceback" not in result.stdout
    stack.must("up")
    assert stack.ready()


def test_down_leaves_no_process(stack: Clone) -> None:
    stack.must("down")
    assert stack.processes() == []


def test_in_production_both_projects_write_documents(stack: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets them as they are. The stack remembers where it is: what follows is in production, too."""
    stack.must("down")
    monkeypatch.setitem(stack.environment, "ENVIRONMENT", "production")
    stack.must("up")
    answer = stack.multiply(6, 7)
    request_id, task_id = answer.headers["X-Request-ID"], answer.json()["id"]
    documents: list[tuple[str, dict[str, object]]] = []

    def found() -> bool:
        lines = [line.split(" | ", 1) for line in stack.stack("logs", "--task", task_id).stdout.splitlines()]
        documents[:] = [(name.strip(), json.loads(line)) for name, line in lines if line.startswith("{")]
        return {name for name, _ in documents} == {"project-api", "project-worker"}

    wait_until(found, 30, "the API's and the worker's document of the task")
    assert {document["http.request.id"] for _, document in documents} == {request_id}
    assert {document["celery.task.id"] for _, document in documents} == {task_id}
    assert {document["event.dataset"] for _, document in documents} == {"fsfc.access", "fsfc.task"}
    assert {document["service.environment"] for _, document in documents} == {"production"}
    stack.must("down")


def test_an_interrupted_up_can_be_repeated(stack: Clone) -> None:
    up = subprocess.Popen(
        ["./stack", "up"],
        cwd=stack.folder,
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    time.sleep(3)  # in the middle of the start, where exactly does not matter
    os.killpg(up.pid, signal.SIGINT)
    said, _ = up.communicate(timeout=60)
    assert up.returncode != 0
    assert "Traceback" not in said
    stack.must("up")
    assert stack.multiply(6, 7).json()["result"] == 42


def test_a_killed_supervisor_leaves_no_process(stack: Clone) -> None:
    stack.program("supervisord").kill()
    seconds = wait_until(lambda: stack.processes() == [], 15, "every process ends")
    print(f"all gone after {seconds:.1f} s")
    assert "Traceback" not in stack.must("status")
    stack.must("up")
    assert stack.multiply(6, 7).json()["result"] == 42
    stack.must("down", "--volumes")
    assert stack.processes() == []
