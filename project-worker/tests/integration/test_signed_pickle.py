"""The worker of signed pickle, started by its command: what it takes, and that the two workers keep apart."""

import pickle
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from celery import chain
from worker_process import IMPORT_ROOT, RunningWorker, running_worker, wait_until

from async_celery.signed_pickle import CONTENT_TYPE, KeyRing, SignedPickle
from project_contracts.integers import INTEGER_MULTIPLICATION
from project_contracts.invoices import INVOICE_TOTAL, Invoice, InvoiceLine
from project_contracts.queues import PROJECT_WORKER, PROJECT_WORKER_PICKLE

COMMAND = "-A pickle_tasks:app worker -Q project-worker-pickle --concurrency=1 -n pickle@%h"
INVOICE = Invoice(
    issued=datetime(2026, 11, 22, 23, 30, tzinfo=UTC),
    due=date(2026, 12, 22),
    lines=[
        InvoiceLine(label="Paper", quantity=Decimal(3), unit_price=Decimal("0.10"), tags=frozenset({"office"}))
    ],
)


@pytest.fixture(scope="module")
def pickle_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    with running_worker(tmp_path_factory.mktemp("pickle"), COMMAND, IMPORT_ROOT) as running:
        yield running


def refused(worker: RunningWorker, queue: str, body: bytes, content_type: str, task: str) -> str:
    """Publish a message; return the type of the error that its waiter reads."""
    task_id = str(uuid4())
    with worker.client.producer_or_acquire() as producer:
        producer.publish(
            body,
            exchange=queue,
            routing_key=queue,
            content_type=content_type,
            content_encoding="binary",
            headers={"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0},
        )
    result = worker.client.AsyncResult(task_id)
    error = result.get(timeout=10, propagate=False)
    assert result.state == "FAILURE"
    return type(error).__name__


def test_an_invoice_is_added_up(pickle_worker: RunningWorker) -> None:
    totals = pickle_worker.send(INVOICE_TOTAL, invoice=INVOICE).get(timeout=10)
    assert totals == {"total": "0.30", "total_by_tag": {"office": "0.30"}, "days_to_pay": 30}


def test_it_takes_nothing_but_signed_pickle(pickle_worker: RunningWorker) -> None:
    raw = pickle.dumps(((), {"invoice": INVOICE}, {}))
    name, queue = INVOICE_TOTAL.name, PROJECT_WORKER_PICKLE
    for body, content_type in (
        (raw, "application/x-python-serialize"),
        (b'[[], {"invoice": {}}, {}]', "application/json"),
    ):
        assert refused(pickle_worker, queue, body, content_type, name) == "ContentDisallowed"
    for content_type in ("application/x-signed-pickle", "application/data"):
        assert refused(pickle_worker, queue, raw, content_type, name) == "DecodeError"
    assert pickle_worker.send(INVOICE_TOTAL, invoice=INVOICE).get(timeout=10)["total"] == "0.30"


def test_the_other_worker_takes_nothing_but_json(worker: RunningWorker) -> None:
    raw = pickle.dumps(((6, 7), {}, {}))
    for content_type in ("application/x-signed-pickle", "application/x-python-serialize"):
        error = refused(worker, PROJECT_WORKER, raw, content_type, INTEGER_MULTIPLICATION.name)
        assert error == "ContentDisallowed"


def test_the_other_worker_signs_what_it_sends(worker: RunningWorker) -> None:
    """The next step of a workflow, to a queue that nobody works here."""
    first = worker.signature(INTEGER_MULTIPLICATION, multiplicand=6, multiplier=7)
    second = worker.signature(INVOICE_TOTAL, invoice="of whatever JSON can hold").set(immutable=True)
    task = chain(first, second, app=worker.client).apply_async()
    received: list[Any] = []

    def has_come() -> bool:
        with worker.client.connection_for_read() as connection:
            queue = worker.client.amqp.queues[PROJECT_WORKER_PICKLE].bind(connection.default_channel)
            received.append(queue.get(no_ack=True))
        return received[-1] is not None

    wait_until(has_come)
    keys = KeyRing(signing=worker.settings.signing_key)
    opened = SignedPickle(keys).open(received[-1].body)
    assert received[-1].content_type == CONTENT_TYPE
    assert (opened.task_id, opened.name) == (task.id, INVOICE_TOTAL.name)
    assert opened[1] == {"invoice": "of whatever JSON can hold"}


def test_it_can_be_told_to_do_things(pickle_worker: RunningWorker) -> None:
    """Remote control stays JSON: without it, no task could be revoked."""
    answers: Any = pickle_worker.client.control.ping(timeout=20, limit=1)
    assert [list(answer.values()) for answer in answers] == [[{"ok": "pong"}]]
