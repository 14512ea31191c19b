"""An invoice's totals, to the last digit."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from project_contracts.invoices import MAX_LINES, Invoice, InvoiceLine
from worker.domain.invoices import add_up

AMOUNTS = st.decimals(0, Decimal("99999999.9999"), places=4)
LINES = st.builds(
    InvoiceLine,
    label=st.just("x"),
    quantity=AMOUNTS,
    unit_price=AMOUNTS,
    tags=st.frozensets(st.sampled_from(["a", "b", "c"])),
)


def invoice(*lines: InvoiceLine, issued: datetime = datetime(2026, 11, 22, tzinfo=UTC)) -> Invoice:
    return Invoice(issued=issued, due=date(2026, 12, 22), lines=list(lines))


def line(quantity: str, unit_price: str, *tags: str) -> InvoiceLine:
    return InvoiceLine(
        label="x", quantity=Decimal(quantity), unit_price=Decimal(unit_price), tags=frozenset(tags)
    )


def test_what_binary_numbers_would_get_wrong() -> None:
    totals = add_up(invoice(line("3", "0.10", "a"), line("1", "19.99", "b", "a"), line("0.5", "0.01")))
    assert totals.total == "20.295"
    assert totals.total_by_tag == {"a": "20.29", "b": "19.99"}
    assert add_up(invoice(line("60", "1"))).total == "60.00"
    assert add_up(invoice(line("0", "5"))).total == "0.00"


@given(st.lists(LINES, min_size=1, max_size=20))
def test_sums_are_exact(lines: list[InvoiceLine]) -> None:
    totals = add_up(invoice(*lines))
    amounts = [(Fraction(each.quantity) * Fraction(each.unit_price), each.tags) for each in lines]
    assert Fraction(totals.total) == sum(amount for amount, _ in amounts)
    for tag, total in totals.total_by_tag.items():
        assert Fraction(total) == sum(amount for amount, tags in amounts if tag in tags)
    assert set(totals.total_by_tag) == set().union(*(each.tags for each in lines))


def test_the_largest_invoice_is_exact() -> None:
    largest = line("99999999.9999", "99999999.9999")
    assert Fraction(add_up(invoice(*[largest] * MAX_LINES)).total) == 1000 * Fraction("99999999.9999") ** 2


def test_days_count_from_the_day_where_it_was_issued() -> None:
    late = datetime(2026, 11, 22, 23, 30, tzinfo=timezone(timedelta(hours=-8)))  # already the 23rd in UTC
    assert add_up(invoice(line("1", "1"), issued=late)).days_to_pay == 30
    assert add_up(invoice(line("1", "1"), issued=datetime(2027, 1, 1, tzinfo=UTC))).days_to_pay == -10
