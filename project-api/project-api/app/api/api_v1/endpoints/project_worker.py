"""One endpoint per task of project-worker.

How it works: FastAPI validates the body against the contract's payload model, `producer.submit` sends it,
`reply.deliver` waits as the client asked. To add a task of your own, copy one of these functions.

What belongs here: endpoints of single tasks whose queue is project-worker's.
"""

from fastapi import APIRouter, Depends
from starlette.responses import Response

from app.api.deps import ProducerDep, ReplyDep, require_json
from app.api.problems import documented
from app.celery.schemas import AsyncTask, AsyncTaskStatus
from project_contracts.contract import NoPayload
from project_contracts.information import WORKER_INFORMATION, WorkerInformationResult
from project_contracts.integers import (
    INTEGER_MULTIPLICATION,
    INTEGERS_SUM,
    IntegerMultiplicationPayload,
    IntegersSumPayload,
)

router = APIRouter(
    prefix="/project-worker",
    tags=["tasks"],
    dependencies=[Depends(require_json)],
    responses=documented(400, 409, 413, 415, 422, 502, 503, 504)
    | {202: {"model": AsyncTask, "description": "accepted; read it at Location"}},
)


@router.post("/integer-multiplication", response_model=AsyncTaskStatus[int])
async def integer_multiplication(
    payload: IntegerMultiplicationPayload, producer: ProducerDep, reply: ReplyDep
) -> Response:
    """Multiply two integers."""
    handle = await producer.submit(INTEGER_MULTIPLICATION, payload, expires=reply.expires)
    return await reply.deliver(handle)


@router.post("/integers-sum", response_model=AsyncTaskStatus[int])
async def integers_sum(payload: IntegersSumPayload, producer: ProducerDep, reply: ReplyDep) -> Response:
    """Add up 1 to 1000 integers."""
    handle = await producer.submit(INTEGERS_SUM, payload, expires=reply.expires)
    return await reply.deliver(handle)


@router.post("/worker-information", response_model=AsyncTaskStatus[WorkerInformationResult])
async def worker_information(producer: ProducerDep, reply: ReplyDep) -> Response:
    """Ask the worker that gets the task about itself; takes no arguments."""
    handle = await producer.submit(WORKER_INFORMATION, NoPayload(), expires=reply.expires)
    return await reply.deliver(handle)
