"""Contract of the task whose arguments JSON cannot hold: an invoice and its totals.

How it works: the API reads an invoice from JSON into these dataclasses, strictly: an amount is a `Decimal` and
never a float, a moment has its zone, tags are a set. As they are, they go to the worker, in signed pickle; the
classes in `PICKLED` are the ones that its worker takes beside Python's own dates and numbers.

What belongs here: that task's name, its arguments' classes with their bounds, its result.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from project_contracts.contract import Payload, Result, TaskContract
from project_contracts.queues import PROJECT_WORKER_PICKLE

MAX_LINES = 1000
MAX_TAGS = 20

_CLOSED = ConfigDict(extra="forbid")


def _written_as(pattern: str, what: str) -> Callable[[Any], Any]:
    """Return what refuses every other spelling: a number would be rounded, or the time of no clock."""

    def check(value: Any) -> Any:
        if isinstance(value, date | Decimal) or (isinstance(value, str) and re.fullmatch(pattern, value)):
            return value
        raise PydanticCustomError("spelling", "should be a string with {what}", {"what": what})

    return check


def _named_once(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(item, str) for item in value) and len(set(value)) < len(value):
        raise PydanticCustomError("twice", "should not name anything twice")
    return value


def _with_python_s_zone(moment: datetime) -> datetime:
    """Replace pydantic's own class of zones, which nobody but pydantic needs to know."""
    return moment.replace(tzinfo=timezone(moment.utcoffset() or timedelta()))


_MOMENT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_AMOUNT = r"[0-9]{1,8}(\.[0-9]{1,4})?"

Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_written_as(_MOMENT, "a time and its zone, as RFC 3339 writes it")),
    AfterValidator(_with_python_s_zone),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-22T14:30:00+01:00"]}),
]
Day = Annotated[
    date,
    BeforeValidator(_written_as(_DAY, "a date, as RFC 3339 writes it")),
    WithJsonSchema({"type": "string", "format": "date", "examples": ["2026-12-22"]}),
]
Amount = Annotated[
    Decimal,
    BeforeValidator(_written_as(_AMOUNT, "at most 8 digits, and 4 after the point")),
    WithJsonSchema({"type": "string", "pattern": f"^{_AMOUNT}$", "examples": ["19.99"]}),
]
Tag = Annotated[str, Field(strict=True, min_length=1, max_length=40)]


@dataclass(frozen=True, kw_only=True)
class InvoiceLine:
    """So many of one thing, at so much each."""

    __pydantic_config__: ClassVar[ConfigDict] = _CLOSED

    label: Annotated[str, Field(strict=True, min_length=1, max_length=250, examples=["Paper, A4"])]
    quantity: Amount
    unit_price: Amount
    tags: Annotated[
        frozenset[Tag],
        Field(max_length=MAX_TAGS, examples=[["office"]]),
        BeforeValidator(_named_once),
    ] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Invoice:
    """What was bought, when, and until when it is to be paid."""

    __pydantic_config__: ClassVar[ConfigDict] = _CLOSED

    issued: Moment
    due: Day
    lines: Annotated[list[InvoiceLine], Field(min_length=1, max_length=MAX_LINES)]


PICKLED: tuple[type, ...] = (Invoice, InvoiceLine)
"""The classes that may be unpickled."""


class InvoiceTotalPayload(Payload):
    """The invoice to add up."""

    invoice: Invoice


class InvoiceTotals(Result):
    """An invoice's sums, as exact decimals in text."""

    total: str = Field(examples=["59.97"])
    total_by_tag: Mapping[str, str] = Field(description="a line counts for each of its tags")
    days_to_pay: int = Field(description="from the day of issue, in the zone of issue; negative when overdue")


INVOICE_TOTAL = TaskContract(
    name="project-worker.invoice_total",
    queue=PROJECT_WORKER_PICKLE,
    payload=InvoiceTotalPayload,
    result=InvoiceTotals,
    serializer="signed-pickle",
)
