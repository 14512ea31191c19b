"""What the producer makes of a payload, by its contract's serializer."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from kombu import serialization

from app.celery.async_celery import create_celery
from app.celery.journal import open_journal
from app.celery.producer import Producer
from app.core.config import Settings
from async_celery.testing import FakeCelery
from project_contracts.integers import INTEGERS_SUM, IntegersSumPayload
from project_contracts.invoices import INVOICE_TOTAL, Invoice, InvoiceLine, InvoiceTotalPayload
from project_contracts.queues import PROJECT_WORKER_PICKLE


async def test_json_gets_plain_values(settings: Settings) -> None:
    async with FakeCelery() as fake, open_journal(fake) as journal:
        producer = Producer(create_celery(settings), fake, journal)
        await producer.submit(INTEGERS_SUM, IntegersSumPayload(integers=[1, 2]))
        fake.assert_sent(INTEGERS_SUM.name, kwargs={"integers": [1, 2]})


async def test_signed_pickle_gets_the_payload_s_own_values(settings: Settings) -> None:
    invoice = Invoice(
        issued=datetime(2026, 11, 22, tzinfo=UTC),
        due=date(2026, 12, 22),
        lines=[InvoiceLine(label="Paper", quantity=Decimal(3), unit_price=Decimal("19.99"))],
    )
    async with FakeCelery() as fake, open_journal(fake) as journal:
        producer = Producer(create_celery(settings), fake, journal)
        await producer.submit(INVOICE_TOTAL, InvoiceTotalPayload(invoice=invoice))
        (sent,) = fake.assert_sent(INVOICE_TOTAL.name, queue=PROJECT_WORKER_PICKLE)
    assert sent.kwargs == {"invoice": invoice}
    assert type(sent.kwargs["invoice"].lines[0].unit_price) is Decimal


def test_nothing_here_would_unpickle_what_is_signed(settings: Settings) -> None:
    """Security 2."""
    create_celery(settings)
    kombu: Any = serialization
    assert "application/x-signed-pickle" in kombu.registry.type_to_name
    assert "application/x-signed-pickle" not in kombu.registry._decoders
