"""A real worker of signed pickle for the API's tests: it answers with the types that it got.

Loaded by `celery -A pickle_worker_app:app worker`. The real one is tested in project-worker, and both in e2e.
"""

from celery import Celery
from pydantic_settings import BaseSettings

from async_celery.queues import work_queue
from async_celery.signed_pickle import CONTENT_TYPE, KeyRing, SignedPickle, register
from async_celery.worker import Policy, install
from project_contracts.connections import Connections
from project_contracts.invoices import INVOICE_TOTAL, PICKLED, Invoice
from project_contracts.queues import PROJECT_WORKER_PICKLE, QUEUES
from project_contracts.signing import SigningKeys


class Settings(Connections, SigningKeys, BaseSettings):
    """Addresses and keys from the environment."""


settings = Settings()
register(SignedPickle(KeyRing(signing=settings.signing_key), classes=PICKLED), opens=True)
app = Celery("pickle_worker_app", broker=settings.broker, backend=settings.backend)
app.conf.update(
    accept_content=[CONTENT_TYPE],
    task_default_queue=PROJECT_WORKER_PICKLE,
    task_queues=[work_queue(q.name, max_length=q.max_length, delivery_limit=q.delivery_limit) for q in QUEUES],
    result_extended=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
)
install(app, Policy())


@app.task(name=INVOICE_TOTAL.name)
def invoice_total(invoice: Invoice) -> dict[str, object]:
    """Return totals of the right shape, made of the values' types."""
    line = invoice.lines[0]
    return {
        "total": str(line.quantity * line.unit_price),
        "total_by_tag": {
            f"{type(value).__module__}.{type(value).__qualname__}": repr(value)
            for value in (invoice, line, invoice.issued, invoice.due, line.unit_price, line.tags)
        },
        "days_to_pay": (invoice.due - invoice.issued.date()).days,
    }
