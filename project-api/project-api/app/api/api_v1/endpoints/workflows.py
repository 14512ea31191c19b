"""Workflows: several tasks under one id.

How it works: the canvas comes from `app/celery/workflows.py`; from there on a workflow is waited for like a
task. `GET /v1/tasks/{id}` lists its children.

What belongs here: an endpoint per workflow.
"""

from fastapi import APIRouter, Depends
from starlette.responses import Response

from app.api.deps import ProducerDep, ReplyDep, require_json
from app.api.problems import documented
from app.celery import workflows
from app.celery.schemas import AsyncTask, AsyncTaskStatus
from project_contracts.integers import IntegerWorkflowPayload, PowerPayload
from project_contracts.statistics import WorldReport

router = APIRouter(
    prefix="/workflows",
    tags=["workflows"],
    dependencies=[Depends(require_json)],
    responses=documented(400, 409, 413, 415, 422, 502, 503, 504)
    | {202: {"model": AsyncTask, "description": "accepted; read it at Location"}},
)


@router.post("/chain", response_model=AsyncTaskStatus[int])
async def chain(payload: PowerPayload, producer: ProducerDep, reply: ReplyDep) -> Response:
    """Chain of n multiplications by the integer: `integer ** n`."""
    canvas = workflows.power(producer.celery, payload)
    handle = await producer.submit_workflow(canvas, int, expires=reply.expires)
    return await reply.deliver(handle)


@router.post("/group", response_model=AsyncTaskStatus[list[int]])
async def group(payload: IntegerWorkflowPayload, producer: ProducerDep, reply: ReplyDep) -> Response:
    """Group of n multiplications: `[integer × 1, … integer × n]`."""
    canvas = workflows.multiples(producer.celery, payload)
    handle = await producer.submit_workflow(canvas, int, expires=reply.expires)
    return await reply.deliver(handle)


@router.post("/chord", response_model=AsyncTaskStatus[int])
async def chord(payload: IntegerWorkflowPayload, producer: ProducerDep, reply: ReplyDep) -> Response:
    """Chord: a group of n multiplications, then the sum of their results."""
    canvas = workflows.sum_of_multiples(producer.celery, payload)
    handle = await producer.submit_workflow(canvas, int, expires=reply.expires)
    return await reply.deliver(handle)


@router.post("/world-statistics", response_model=AsyncTaskStatus[WorldReport])
async def world_statistics(producer: ProducerDep, reply: ReplyDep) -> Response:
    """Statistics of 234,908 cities and 252 countries (GeoNames): one task per continent, merged."""
    canvas = workflows.world_statistics(producer.celery)
    handle = await producer.submit_workflow(canvas, WorldReport, expires=reply.expires)
    return await reply.deliver(handle)
