"""The project's tasks, through RabbitMQ, a worker process and Redis."""

import platform
from typing import Any

import celery
import pytest
from worker_process import RunningWorker

from project_contracts.contract import TaskContract
from project_contracts.information import WORKER_INFORMATION, WorkerInformationResult
from project_contracts.integers import INTEGER_MULTIPLICATION, INTEGERS_SUM
from project_contracts.statistics import CONTINENT_STATISTICS, WORLD_REPORT


def test_integer_multiplication(worker: RunningWorker) -> None:
    task = worker.send(INTEGER_MULTIPLICATION, multiplicand=6, multiplier=7)
    assert task.get(timeout=10) == 42
    # result_extended: the status document needs to name the task.
    assert task.name == INTEGER_MULTIPLICATION.name
    assert task.kwargs == {"multiplicand": 6, "multiplier": 7}


def test_integers_may_outgrow_what_a_client_may_send(worker: RunningWorker) -> None:
    task = worker.send(INTEGER_MULTIPLICATION, multiplicand=10**2000, multiplier=-(10**2000))
    assert task.get(timeout=10) == -(10**4000)


@pytest.mark.parametrize(
    ("contract", "arguments", "error"),
    [
        (
            INTEGER_MULTIPLICATION,
            {"multiplicand": True, "multiplier": 7},
            "multiplicand must be an integer, not bool",
        ),
        (
            INTEGER_MULTIPLICATION,
            {"multiplicand": 6, "multiplier": "7"},
            "multiplier must be an integer, not str",
        ),
        (INTEGERS_SUM, {"integers": [1, 2.0]}, r"integers\[1\] must be an integer, not float"),
        (INTEGER_MULTIPLICATION, {"multiplicand": 6}, "multiplier"),
    ],
)
def test_wrong_arguments_fail_with_a_clear_type_error(
    worker: RunningWorker, contract: TaskContract[Any, Any], arguments: dict[str, object], error: str
) -> None:
    with pytest.raises(TypeError, match=error):
        worker.send(contract, **arguments).get(timeout=10)


@pytest.mark.parametrize(
    ("contract", "arguments", "field"),
    [
        (CONTINENT_STATISTICS, {"continent": "XX"}, "continent"),
        (WORLD_REPORT, {"reports": [{}]}, "reports.0.cities"),
    ],
)
def test_invalid_payload_fails_naming_the_field(
    worker: RunningWorker, contract: TaskContract[Any, Any], arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(ValueError, match=field):
        worker.send(contract, **arguments).get(timeout=10)


def test_worker_information_describes_the_child(worker: RunningWorker) -> None:
    information = WorkerInformationResult.model_validate(worker.send(WORKER_INFORMATION).get(timeout=10))
    assert information.pid != worker.process.pid
    assert information.python == platform.python_version()
    assert information.celery == celery.__version__
    assert 0 < information.uptime_seconds < 3600
