"""One endpoint per task of project-worker.

How it works: FastAPI validates the body against the contract's payload model, `submission.send` sends it (once
for each Idempotency-Key), `reply.deliver` waits as the client asked. To add a task of your own, copy one of these
functions.

What belongs here: endpoints of single tasks whose queue is project-worker's.
"""

from starlette.responses import Response

from app.api.deps import ReplyDep, SubmissionDep
from app.api.task_router import TaskRouter
from project_contracts.contract import NoPayload
from project_contracts.information import WORKER_INFORMATION, WorkerInformationResult
from project_contracts.integers import (
    INTEGER_MULTIPLICATION,
    INTEGERS_SUM,
    IntegerMultiplicationPayload,
    IntegersSumPayload,
)
from project_contracts.invoices import INVOICE_TOTAL, InvoiceTotalPayload, InvoiceTotals

router = TaskRouter(prefix="/project-worker", tags=["tasks"])


@router.task("/integer-multiplication", int)
async def integer_multiplication(
    payload: IntegerMultiplicationPayload, submission: SubmissionDep, reply: ReplyDep
) -> Response:
    """Multiply two integers."""
    handle = await submission.send(INTEGER_MULTIPLICATION, payload)
    return await reply.deliver(handle)


@router.task("/integers-sum", int)
async def integers_sum(payload: IntegersSumPayload, submission: SubmissionDep, reply: ReplyDep) -> Response:
    """Add up 1 to 1000 integers."""
    handle = await submission.send(INTEGERS_SUM, payload)
    return await reply.deliver(handle)


@router.task("/worker-information", WorkerInformationResult)
async def worker_information(submission: SubmissionDep, reply: ReplyDep) -> Response:
    """Ask the worker that gets the task about itself; takes no arguments."""
    handle = await submission.send(WORKER_INFORMATION, NoPayload())
    return await reply.deliver(handle)


@router.task("/invoice-total", InvoiceTotals)
async def invoice_total(payload: InvoiceTotalPayload, submission: SubmissionDep, reply: ReplyDep) -> Response:
    """Add up an invoice, exactly; its dates, decimals and sets travel as such, in signed pickle."""
    handle = await submission.send(INVOICE_TOTAL, payload)
    return await reply.deliver(handle)
