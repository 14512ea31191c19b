"""The invoice: what JSON may say, and that what is made of it are plain Python values."""

import copy
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from project_contracts.invoices import MAX_LINES, MAX_TAGS, Invoice, InvoiceLine, InvoiceTotalPayload

LINE = {"label": "Paper", "quantity": "3", "unit_price": "19.9900", "tags": ["office", "paper"]}
INVOICE = {"issued": "2026-11-22T23:30:00.25+01:00", "due": "2026-12-22", "lines": [LINE]}


def read(**changes: Any) -> Invoice:
    """Read an invoice with fields of it, or of its line, changed."""
    invoice: dict[str, Any] = copy.deepcopy(INVOICE)
    for name, value in changes.items():
        (invoice if name in invoice else invoice["lines"][0])[name] = value
    return InvoiceTotalPayload.model_validate({"invoice": invoice}).invoice


def test_values_are_pythons_own() -> None:
    """They are unpickled into nothing else."""
    invoice = read()
    assert invoice == Invoice(
        issued=datetime(2026, 11, 22, 23, 30, 0, 250_000, timezone(timedelta(hours=1))),
        due=date(2026, 12, 22),
        lines=[
            InvoiceLine(
                label="Paper",
                quantity=Decimal(3),
                unit_price=Decimal("19.9900"),
                tags=frozenset({"office", "paper"}),
            )
        ],
    )
    assert str(invoice.lines[0].unit_price) == "19.9900"
    assert type(invoice.issued.tzinfo) is timezone
    assert read(issued="2026-11-22T00:00:00Z").issued == datetime(2026, 11, 22, tzinfo=UTC)
    assert type(invoice.lines[0].tags) is frozenset


def test_tags_may_be_left_out() -> None:
    line = {name: value for name, value in LINE.items() if name != "tags"}
    assert read(lines=[line]).lines[0].tags == frozenset()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (
            "issued",
            [None, 0, 1e9, "", "now", "1700000000", "2026-11-22", "2026-11-22T10:00:00", "2026-13-01T00:00:00Z"],
        ),
        ("due", [None, 0, "", "20261222", "2026-12-22T00:00:00", "2026-02-30", "0000-01-01", "1700000000"]),
        ("lines", [None, {}, [], [LINE] * (MAX_LINES + 1), ["x"], [None]]),
        ("label", [None, 1, "", "x" * 251, "\ud800", b"x"]),
        ("quantity", [None, 1, 1.5, True, "", " 5 ", "1e3", "1_000", "0x10", "-1", "+1", "NaN", "Infinity", "٣"]),
        ("unit_price", ["1.23456", "123456789", "1.", ".5", "9" * 100_000, "1,5", "1\n"]),
        ("tags", [None, "ab", {"a": 1}, [1], [""], ["x" * 41], ["a", "a"], list(map(str, range(MAX_TAGS + 1)))]),
    ],
)
def test_bad_input_is_refused_naming_the_field(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValidationError, match=field):
            read(**{field: value})


def test_deep_tags_are_refused_as_any_other() -> None:
    """Comparing them with each other would end in a RecursionError."""
    one: Any = []
    other: Any = []
    for _ in range(sys.getrecursionlimit()):
        one, other = [one], [other]
    with pytest.raises(ValidationError):
        read(tags=[one, other])


def test_unknown_fields_are_refused() -> None:
    for path in ({"extra": 1}, {"lines": [{**LINE, "extra": 1}]}):
        with pytest.raises(ValidationError, match="extra"):
            InvoiceTotalPayload.model_validate({"invoice": {**INVOICE, **path}})


def test_bounds_are_reached() -> None:
    longest = {**LINE, "label": "x" * 250, "unit_price": "99999999.9999", "tags": list(map(str, range(MAX_TAGS)))}
    assert len(read(lines=[longest] * MAX_LINES).lines) == MAX_LINES


def test_the_schema_says_the_same() -> None:
    """It is what /docs shows, and what a fuzzer goes by."""
    schema = InvoiceTotalPayload.model_json_schema()
    line, invoice = schema["$defs"]["InvoiceLine"]["properties"], schema["$defs"]["Invoice"]["properties"]
    assert {line[name]["type"] for name in ("label", "quantity", "unit_price")} == {"string"}
    assert (invoice["issued"]["format"], invoice["due"]["format"]) == ("date-time", "date")
    assert (invoice["lines"]["minItems"], invoice["lines"]["maxItems"]) == (1, MAX_LINES)
    assert (line["tags"]["uniqueItems"], line["tags"]["maxItems"]) == (True, MAX_TAGS)
