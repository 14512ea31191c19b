"""The headers of messages that a worker sends."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery, signals
from celery._state import _task_stack  # type: ignore[attr-defined]  # older stubs
from celery.app.task import Context

from async_celery.worker import Policy, install
from async_celery.worker.publishing import with_stamps


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


def test_message_says_when_it_was_sent_whatever_its_caller_says() -> None:
    assert abs(with_stamps({}, {"x-published-at": 1.0})["x-published-at"] - time.time()) < 60


def test_retry_does_not_say_how_the_run_before_it_went() -> None:
    run = {"received_at": 2.0, "redeliveries": 1, "started_at": 3.0}
    assert set(with_stamps({}, {"x-request-id": "r", **run})) == {"x-request-id", "x-published-at"}


@pytest.mark.usefixtures("task")
def test_message_of_a_task_has_its_callers_headers_and_nothing_else() -> None:
    added = with_stamps({"id": "b", "task": "next", "retries": 0}, {})
    assert abs(added.pop("x-published-at") - time.time()) < 60
    assert added == {"x-request-id": "r"}


@pytest.mark.usefixtures("task")
def test_message_keeps_its_own_headers() -> None:
    assert with_stamps({}, {"x-request-id": "own"})["x-request-id"] == "own"
    assert "x-request-id" not in with_stamps({"x-request-id": "celery's"}, {})


def test_another_app_s_messages_are_left_alone() -> None:
    ours, other = (Celery(broker="memory://", set_as_current=False) for _ in range(2))
    install(ours, Policy())
    sent = []
    with closing(ours.connection_for_write()) as connection:
        producer = ours.amqp.Producer(connection, auto_declare=False)
        producer.publish = lambda *_, headers, **__: sent.append(headers)  # type: ignore[method-assign]
        for app in (ours, other):
            app.amqp.send_task_message(producer, "a", app.amqp.as_task_v2("id", "a"))
    assert ["x-published-at" in headers for headers in sent] == [True, False]
    assert not signals.before_task_publish.receivers
