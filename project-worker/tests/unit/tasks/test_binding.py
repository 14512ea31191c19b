"""Binding: what is registered under a contract is exactly what the contract says."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from pydantic import BaseModel

from async_celery.worker import Policy, install, loops
from project_contracts.contract import NoPayload, Payload, Result, TaskContract
from project_database.errors import DatabaseUnavailable, TransactionConflict
from worker.config import Settings
from worker.tasks.binding import TaskBinder


class Pair(Payload):
    first: int
    second: int


class Total(Result):
    total: int


ADD = TaskContract(name="tests.add", queue="project-worker", payload=Pair, result=Total)


@pytest.fixture
def task(settings: Settings) -> Iterator[TaskBinder]:
    app = Celery("tests", set_as_current=False)
    install(app, Policy())
    yield TaskBinder(app=app, settings=settings)
    loops._close_all()  # what a child does when it ends


def test_name_queue_serializer_and_policy(task: TaskBinder, settings: Settings) -> None:
    @task(ADD)
    def add(first: int, second: int) -> Total:
        return Total(total=first + second)

    registered: Any = task.app.tasks["tests.add"]
    assert registered.serializer == "json"
    assert task.app.amqp.router.route({}, "tests.add")["queue"].name == "project-worker"
    assert registered.autoretry_for == (ConnectionError, TimeoutError, DatabaseUnavailable, TransactionConflict)
    assert registered.max_retries == settings.task_max_retries == 3
    assert registered.default_retry_delay == settings.retry_backoff_seconds == 2
    assert (registered.retry_backoff, registered.retry_backoff_max, registered.retry_jitter) == (2, 9, True)


def test_result_model_becomes_json(task: TaskBinder) -> None:
    @task(ADD)
    def add(first: int, second: int) -> Total:
        return Total(total=first + second)

    assert task.app.tasks["tests.add"](2, second=3) == {"total": 5}
    assert add(2, 3) == Total(total=5)


def test_parameters_must_be_the_payload_s_fields_in_their_order(task: TaskBinder) -> None:
    def swapped(second: int, first: int) -> Total:
        raise AssertionError

    with pytest.raises(TypeError, match=r"tests\.add: the function's parameters \['second', 'first'\] must be"):
        task(ADD)(swapped)
    assert "tests.add" not in task.app.tasks


def test_validation_error_keeps_its_message_and_hides_its_input(task: TaskBinder) -> None:
    class Inner(BaseModel):
        number: int

    @task(TaskContract(name="tests.validate", queue="project-worker", payload=NoPayload, result=int))
    def validate() -> int:
        return Inner.model_validate({"number": "a secret"}).number

    with pytest.raises(ValueError, match=r"^number: Input should be a valid integer") as raised:
        task.app.tasks["tests.validate"]()
    assert "a secret" not in str(raised.value)


def test_tasks_belong_to_their_app_alone(task: TaskBinder) -> None:
    @task(ADD)
    def add(first: int, second: int) -> Total:
        return Total(total=first + second)

    assert "tests.add" in task.app.tasks
    assert "tests.add" not in Celery("other", set_as_current=False).tasks


def test_coroutine_functions_are_bound_as_functions_are(task: TaskBinder) -> None:
    @task(ADD)
    async def add(first: int, second: int) -> Total:
        await asyncio.sleep(0)
        return Total(total=first + second)

    assert task.app.tasks["tests.add"](2, second=3) == {"total": 5}
    assert asyncio.run(add(2, 3)) == Total(total=5)


def test_their_parameters_are_checked_too(task: TaskBinder) -> None:
    async def swapped(second: int, first: int) -> Total:
        raise AssertionError

    with pytest.raises(TypeError, match=r"tests\.add: the function's parameters"):
        task(ADD)(swapped)


def test_their_validation_errors_are_readable_too(task: TaskBinder) -> None:
    class Inner(BaseModel):
        number: int

    @task(TaskContract(name="tests.validate", queue="project-worker", payload=NoPayload, result=int))
    async def validate() -> int:
        await asyncio.sleep(0)
        return Inner.model_validate({"number": "a secret"}).number

    with pytest.raises(ValueError, match=r"^number: Input should be a valid integer") as raised:
        task.app.tasks["tests.validate"]()
    assert "a secret" not in str(raised.value)
