"""Workflows: made of the contracts' names, queues and arguments, bound to the given app."""

from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from celery.canvas import Signature, _chain, chord, group

from app.celery import workflows
from app.celery.async_celery import create_celery
from app.core.config import Settings
from project_contracts.integers import IntegerWorkflowPayload, PowerPayload
from project_contracts.statistics import CONTINENTS


@pytest.fixture
def app(settings: Settings) -> Celery:
    return create_celery(settings)


def sent(signature: Signature[object]) -> tuple[object, ...]:
    return signature.task, dict(signature.kwargs), signature.options["queue"]


def test_power_is_a_chain_that_starts_from_one(app: Celery) -> None:
    canvas = workflows.power(app, PowerPayload(integer=3, n=3))
    assert isinstance(canvas, _chain)
    name, queue = "project-worker.integer_multiplication", "project-worker"
    assert [sent(task) for task in canvas.tasks] == [
        (name, {"multiplicand": 1, "multiplier": 3}, queue),
        (name, {"multiplier": 3}, queue),
        (name, {"multiplier": 3}, queue),
    ]


def test_multiples_is_a_group(app: Celery) -> None:
    canvas = workflows.multiples(app, IntegerWorkflowPayload(integer=5, n=3))
    assert isinstance(canvas, group)
    assert [task.kwargs for task in canvas.tasks] == [
        {"multiplicand": 5, "multiplier": factor} for factor in (1, 2, 3)
    ]


def test_sum_of_multiples_is_a_chord(app: Celery) -> None:
    canvas = workflows.sum_of_multiples(app, IntegerWorkflowPayload(integer=5, n=3))
    assert isinstance(canvas, chord)
    assert len(canvas.tasks) == 3
    assert sent(canvas.body) == ("project-worker.integers_sum", {}, "project-worker")


def test_world_statistics_has_a_task_per_continent(app: Celery) -> None:
    canvas = workflows.world_statistics(app)
    assert isinstance(canvas, chord)
    assert [task.kwargs["continent"] for task in canvas.tasks] == list(CONTINENTS)
    assert canvas.body.task == "project-worker.world_report"


@pytest.mark.parametrize("geonames", [True, False])
def test_an_import_loads_its_parts_side_by_side_then_ends(app: Celery, geonames: bool) -> None:
    import_id = UUID(int=5)
    canvas: Any = workflows.import_cities(app, import_id, parts=3, geonames=geonames)
    of_this = {"import_id": str(import_id)}
    if geonames:
        assert isinstance(canvas, _chain)
        stage, canvas = canvas.tasks
        assert sent(stage) == ("project-worker.stage_geonames", of_this, "project-worker")
    assert isinstance(canvas, chord)
    assert [sent(task) for task in canvas.tasks] == [
        ("project-worker.load_part", of_this | {"part": part, "parts": 3}, "project-worker") for part in range(3)
    ]
    assert sent(canvas.body) == ("project-worker.finish_import", of_this, "project-worker")
    # None takes the result of the one before it.
    assert all(task.immutable for task in (*canvas.tasks, canvas.body))


def test_signatures_belong_to_the_given_app(app: Celery) -> None:
    canvas = workflows.sum_of_multiples(app, IntegerWorkflowPayload(integer=5, n=2))
    assert isinstance(canvas, chord)
    assert {id(task.app) for task in (canvas, canvas.body, *canvas.tasks)} == {id(app)}
