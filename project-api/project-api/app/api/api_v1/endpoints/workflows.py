"""Workflows: several tasks under one id.

How it works: the canvas comes from `app/celery/workflows.py`; from there on a workflow is waited for like a
task. `GET /v1/tasks/{id}` lists its children.

What belongs here: an endpoint per workflow.
"""

from starlette.responses import Response

from app.api.deps import ReplyDep, SubmissionDep
from app.api.task_router import TaskRouter
from app.celery import workflows
from project_contracts.integers import IntegerWorkflowPayload, PowerPayload
from project_contracts.statistics import WorldReport

router = TaskRouter(prefix="/workflows", tags=["workflows"])


@router.task("/chain", int)
async def chain(payload: PowerPayload, submission: SubmissionDep, reply: ReplyDep) -> Response:
    """Chain of n multiplications by the integer: `integer ** n`."""
    canvas = workflows.power(submission.celery, payload)
    handle = await submission.send_workflow(canvas, int)
    return await reply.deliver(handle)


@router.task("/group", list[int])
async def group(payload: IntegerWorkflowPayload, submission: SubmissionDep, reply: ReplyDep) -> Response:
    """Group of n multiplications: `[integer × 1, … integer × n]`."""
    canvas = workflows.multiples(submission.celery, payload)
    handle = await submission.send_workflow(canvas, int)
    return await reply.deliver(handle)


@router.task("/chord", int)
async def chord(payload: IntegerWorkflowPayload, submission: SubmissionDep, reply: ReplyDep) -> Response:
    """Chord: a group of n multiplications, then the sum of their results."""
    canvas = workflows.sum_of_multiples(submission.celery, payload)
    handle = await submission.send_workflow(canvas, int)
    return await reply.deliver(handle)


@router.task("/world-statistics", WorldReport)
async def world_statistics(submission: SubmissionDep, reply: ReplyDep) -> Response:
    """Statistics of 234,908 cities and 252 countries (GeoNames): one task per continent, merged."""
    canvas = workflows.world_statistics(submission.celery)
    handle = await submission.send_workflow(canvas, WorldReport)
    return await reply.deliver(handle)
