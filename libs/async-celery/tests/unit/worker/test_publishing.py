"""The headers of messages that a worker sends."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery._state import _task_stack  # type: ignore[attr-defined]  # older stubs
from celery.app.task import Context

from async_celery.worker.publishing import _stamp


@pytest.fixture
def task() -> Iterator[Any]:
    """A task that runs, for a message with some headers."""
    app = Celery(set_as_current=False)

    @app.task(name="running", shared=False)
    def running() -> None: ...

    task: Any = running
    headers = {
        "id": "a",
        "task": "running",
        "retries": 2,
        "x-request-id": "r",
        "x-published-at": 1.0,
        "x-death": [{"reason": "expired"}],
        "received_at": 2.0,
    }
    task.push_request(**vars(Context(headers)))
    _task_stack.push(task)
    yield task
    _task_stack.pop()
    task.pop_request()


def stamped(**headers: Any) -> dict[str, Any]:
    _stamp(headers=headers, body=(), sender="task")
    return headers


def test_message_says_when_it_was_sent() -> None:
    assert abs(stamped(id="b")["x-published-at"] - time.time()) < 1


@pytest.mark.usefixtures("task")
def test_message_of_a_task_has_its_callers_headers_and_nothing_else() -> None:
    headers = stamped(id="b", task="next")
    assert abs(headers.pop("x-published-at") - time.time()) < 1
    assert headers == {"id": "b", "task": "next", "x-request-id": "r"}


@pytest.mark.usefixtures("task")
def test_message_keeps_its_own_headers() -> None:
    assert stamped(**{"id": "b", "x-request-id": "own"})["x-request-id"] == "own"
