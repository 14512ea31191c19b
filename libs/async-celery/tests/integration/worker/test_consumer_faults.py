"""No message is dropped without a word: what is no task is a dead letter, and a FAILURE for its waiter."""

import json
import pickle
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import chord

from ..conftest import Address
from .worker_process import WorkerProcess, wait_until

JSON = "application/json"
BODY = [[1, 2], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


@pytest.fixture(scope="module")
def worker(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("worker")
    with WorkerProcess(folder, broker=vhost, backend=backend.url()) as worker:
        yield worker


def publish(worker: WorkerProcess, body: object, headers: object, content_type: str = JSON, **more: Any) -> None:
    """Publish what no Celery client would."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with worker.client.connection_for_write() as connection:
        channel: Any = connection.default_channel
        message = channel.prepare_message(
            raw,
            content_type=content_type,
            content_encoding=more.pop("content_encoding", "utf-8"),
            headers=headers,
        )
        message.properties.update(more)
        channel.basic_publish(message, exchange=worker.settings.queue, routing_key=worker.settings.queue)


def only_dead_letter(worker: WorkerProcess) -> Any:
    letter: Any
    (letter,) = worker.wait_for_dead_letters()
    assert letter.headers["x-death"][0]["reason"] == "rejected"
    assert letter.headers["x-death"][0]["queue"] == worker.settings.queue
    return letter


def headers(task_id: str, **changed: Any) -> dict[str, Any]:
    return {"lang": "py", "task": "add", "id": task_id, "root_id": task_id, "retries": 0, **changed}


REFUSED: dict[str, tuple[Any, dict[str, Any], str, str, str]] = {
    "unknown task": (BODY, {"task": "nobody.knows"}, JSON, "NotRegistered", "'nobody.knows'"),
    "pickle": (pickle.dumps(BODY), {}, "application/x-python-serialize", "ContentDisallowed", "send it as JSON"),
    "yaml": (b"[]", {}, "application/x-yaml", "ContentDisallowed", "send it as JSON"),
    "unknown type": (b"[]", {}, "application/x-nobody", "ContentDisallowed", "send it as JSON"),
    "truncated": (b'[[1, 2], {"a', {}, JSON, "DecodeError", "Unterminated string"),
    "not utf-8": (b'["\xff"]', {}, JSON, "DecodeError", "application/json"),
    "empty": (b"", {}, JSON, "InvalidTaskError", "[args, kwargs, embed]"),
    "raw bytes": (b"abc", {}, "application/data", "InvalidTaskError", "[args, kwargs, embed]"),
    "a number": (5, {}, JSON, "InvalidTaskError", "[args, kwargs, embed]"),
    "two parts": ([[], {}], {}, JSON, "InvalidTaskError", "[args, kwargs, embed]"),
    "args no list": ([{}, {}, {}], {}, JSON, "InvalidTaskError", "[args, kwargs, embed]"),
    "kwargs no dict": ([[], [], {}], {}, JSON, "InvalidTaskError", "[args, kwargs, embed]"),
    "protocol 1": ({"task": "add", "args": [1, 2], "kwargs": {}}, {}, JSON, "InvalidTaskError", "protocol 2"),
    "bad eta": (BODY, {"eta": "tomorrow"}, JSON, "InvalidTaskError", "tomorrow"),
    "bad expires": (BODY, {"expires": "soon"}, JSON, "InvalidTaskError", "soon"),
    "bad retries": (BODY, {"retries": "many"}, JSON, "InvalidTaskError", "retries"),
    "bad timelimit": (BODY, {"timelimit": [1]}, JSON, "InvalidTaskError", "timelimit"),
    "bad stamps": (BODY, {"stamped_headers": "all"}, JSON, "InvalidTaskError", "stamped_headers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_message_is_a_failure_and_a_dead_letter(worker: WorkerProcess, case: str) -> None:
    """W12, W13."""
    body, changed, content_type, error, text = REFUSED[case]
    task = str(uuid4())
    started = time.monotonic()
    publish(worker, body, headers(task, **changed), content_type)
    meta = worker.stored(task)
    print(f"{case}: FAILURE after {time.monotonic() - started:.3f} s")
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", error)
    assert text in " ".join(meta["result"]["exc_message"])
    letter = only_dead_letter(worker)
    assert letter.headers["id"] == task
    assert worker.oracle.executions(task) == []


NAMELESS: dict[str, tuple[Any, Any]] = {
    "no headers": (BODY, {}),
    "no id": (BODY, {"task": "add"}),
    "a list for an id": (BODY, {"task": "add", "id": ["a"]}),
    "a table for a task": (BODY, {"task": {"add": 1}, "id": "abc"}),
}


@pytest.mark.parametrize("case", NAMELESS)
def test_message_that_names_no_task_is_a_dead_letter(worker: WorkerProcess, case: str) -> None:
    body, its_headers = NAMELESS[case]
    publish(worker, body, its_headers)
    only_dead_letter(worker)
    # Well and alive.
    assert worker.ended(worker.send("add", 1, 2))["result"] == 3


def test_unknown_member_fails_its_chord(worker: WorkerProcess) -> None:
    client = worker.client
    header = [client.signature("add", (1, 1)), client.signature("nobody.knows"), client.signature("add", (2, 2))]
    body = chord(header, app=client)(client.signature("total"))
    meta = worker.ended(body.id)
    assert meta["status"] == "FAILURE"
    assert "nobody.knows" in repr(meta["result"])
    assert only_dead_letter(worker).headers["task"] == "nobody.knows"


def test_expired_message_that_cannot_be_read_is_no_dead_letter(worker: WorkerProcess) -> None:
    """An envelope of signed pickle gets stale when its message expires."""
    task = str(uuid4())
    publish(worker, b"{", headers(task, expires="2020-01-01T00:00:00+00:00"))
    assert worker.stored(task)["status"] == "REVOKED"
    assert worker.dead_letters() == []


def test_bad_arguments_are_the_tasks_own_failure(worker: WorkerProcess) -> None:
    meta = worker.stored(worker.send("add", 1, kwargs={"nobody": "knows"}))
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", "TypeError")
    meta = worker.stored(worker.send("add", 1))
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", "TypeError")
    assert worker.dead_letters() == []


def test_broken_remote_control_is_dropped(worker: WorkerProcess) -> None:
    with worker.client.connection_for_write() as connection:
        channel: Any = connection.default_channel
        message = channel.prepare_message(b"{", content_type=JSON, content_encoding="utf-8")
        channel.basic_publish(message, exchange="celery.pidbox", routing_key="")
    wait_until(lambda: "Can't decode message body" in worker.text)
    assert worker.ended(worker.send("add", 1, 2))["result"] == 3
    assert worker.dead_letters() == []
