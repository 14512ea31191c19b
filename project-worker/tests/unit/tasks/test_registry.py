"""Every contract has its task, every task its contract."""

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
from celery import Celery

import project_contracts
from project_contracts.contract import TaskContract
from project_contracts.queues import PROJECT_WORKER

CONTRACTS: list[TaskContract[Any, Any]] = [
    value
    for module in pkgutil.iter_modules(project_contracts.__path__)
    for value in vars(importlib.import_module(f"project_contracts.{module.name}")).values()
    if isinstance(value, TaskContract)
]


def test_contracts_and_tasks_are_the_same_set(app: Celery) -> None:
    names = {contract.name for contract in CONTRACTS if contract.queue == PROJECT_WORKER}
    assert len(names) >= 5
    assert names == {name for name in app.tasks if not name.startswith("celery.")}


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_each_task_is_as_its_contract_says(app: Celery, contract: TaskContract[Any, Any]) -> None:
    task = app.tasks[contract.name]
    assert task.serializer == contract.serializer
    assert app.amqp.router.route({}, contract.name)["queue"].name == contract.queue
    assert list(inspect.signature(task.run).parameters) == list(contract.payload.model_fields)
