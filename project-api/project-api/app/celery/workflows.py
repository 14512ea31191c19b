"""The workflows, composed from contracts with Celery's canvas.

- *chain*: each task gets the result of the one before it.
- *group*: independent tasks side by side; the result is the list of theirs.
- *chord*: a group whose results go to one more task (the seed's "group + chain").

How it works: `_task` makes a signature from a contract, bound to the producer's own app (an unbound signature
would use whatever app is current in its thread). Nothing is sent here.

What belongs here: a function per workflow, payload in, canvas out.
"""

from typing import Any
from uuid import UUID

from celery import Celery, chain, chord, group
from celery.canvas import Signature

from app.core import context
from project_contracts.contract import TaskContract
from project_contracts.imports import FINISH_IMPORT, LOAD_PART, STAGE_GEONAMES
from project_contracts.integers import (
    INTEGER_MULTIPLICATION,
    INTEGERS_SUM,
    IntegerWorkflowPayload,
    PowerPayload,
)
from project_contracts.statistics import CONTINENT_STATISTICS, CONTINENTS, WORLD_REPORT


def _task(app: Celery, contract: TaskContract[Any, Any], **kwargs: object) -> Signature[Any]:
    return app.signature(
        contract.name,
        kwargs=kwargs,
        options={
            "queue": contract.queue,
            "serializer": contract.serializer,
            "headers": context.message_headers(),
        },
    )


def power(app: Celery, payload: PowerPayload) -> Signature[Any]:
    """Chain of n multiplications: integer ** n."""
    first = _task(app, INTEGER_MULTIPLICATION, multiplicand=1, multiplier=payload.integer)
    others = (_task(app, INTEGER_MULTIPLICATION, multiplier=payload.integer) for _ in range(payload.n - 1))
    return chain(first, *others, app=app)


def multiples(app: Celery, payload: IntegerWorkflowPayload) -> group:
    """Group of n multiplications: integer × 1, integer × 2, … integer × n."""
    return group(
        [
            _task(app, INTEGER_MULTIPLICATION, multiplicand=payload.integer, multiplier=factor)
            for factor in range(1, payload.n + 1)
        ],
        app=app,
    )


def sum_of_multiples(app: Celery, payload: IntegerWorkflowPayload) -> Signature[Any]:
    """Chord: the n multiples of `multiples`, then their sum."""
    return chord(multiples(app, payload), _task(app, INTEGERS_SUM), app=app)


def world_statistics(app: Celery) -> Signature[Any]:
    """Chord over the real GeoNames data: one task per continent, then the world's report."""
    continents = group(
        [_task(app, CONTINENT_STATISTICS, continent=continent) for continent in CONTINENTS], app=app
    )
    return chord(continents, _task(app, WORLD_REPORT), app=app)


def import_cities(app: Celery, import_id: UUID, *, parts: int, geonames: bool) -> Signature[Any]:
    """Chord: the parts of an import side by side, then its end. The GeoNames set is staged first."""
    load = group(
        [
            _task(app, LOAD_PART, import_id=str(import_id), part=part, parts=parts).set(immutable=True)
            for part in range(parts)
        ],
        app=app,
    )
    loaded = chord(load, _task(app, FINISH_IMPORT, import_id=str(import_id)).set(immutable=True), app=app)
    if not geonames:
        return loaded
    stage = _task(app, STAGE_GEONAMES, import_id=str(import_id)).set(immutable=True)
    return chain(stage, loaded, app=app)
