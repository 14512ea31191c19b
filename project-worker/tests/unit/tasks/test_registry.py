"""Every contract has its task, every task its contract."""

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
from celery import Celery

import project_contracts
from project_contracts.contract import TaskContract
from project_contracts.queues import PROJECT_WORKER, PROJECT_WORKER_PICKLE

CONTRACTS: list[TaskContract[Any, Any]] = [
    value
    for module in pkgutil.iter_modules(project_contracts.__path__)
    for value in vars(importlib.import_module(f"project_contracts.{module.name}")).values()
    if isinstance(value, TaskContract)
]


@pytest.fixture
def apps(app: Celery, pickle_app: Celery) -> dict[str, Celery]:
    """The apps by the queues that they work."""
    return {PROJECT_WORKER: app, PROJECT_WORKER_PICKLE: pickle_app}


def test_contracts_and_tasks_are_the_same_set(apps: dict[str, Celery]) -> None:
    assert len(CONTRACTS) >= 6
    for queue, app in apps.items():
        names = {contract.name for contract in CONTRACTS if contract.queue == queue}
        assert names == {name for name in app.tasks if not name.startswith("celery.")}


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_each_task_is_as_its_contract_says(apps: dict[str, Celery], contract: TaskContract[Any, Any]) -> None:
    app = apps[contract.queue]
    task = app.tasks[contract.name]
    assert task.serializer == contract.serializer
    assert app.amqp.router.route({}, contract.name)["queue"].name == contract.queue
    assert list(inspect.signature(task.run).parameters) == list(contract.payload.model_fields)
