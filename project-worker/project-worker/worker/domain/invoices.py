"""An invoice's totals, exact to the last digit.

How it works: amounts are decimals and stay decimals; Python rounds at 28 digits, which sums of 1,000 products of
12 digits do not reach.

What belongs here: pure functions on invoices. Their classes are contracts (`project_contracts.invoices`).
"""

from collections import defaultdict
from decimal import Decimal

from project_contracts.invoices import Invoice, InvoiceTotals


def add_up(invoice: Invoice) -> InvoiceTotals:
    """Return the sums of an invoice; `InvoiceTotals` says what each means."""
    total = Decimal()
    by_tag: defaultdict[str, Decimal] = defaultdict(Decimal)
    for line in invoice.lines:
        amount = line.quantity * line.unit_price
        total += amount
        for tag in line.tags:
            by_tag[tag] += amount
    return InvoiceTotals(
        total=_written(total),
        total_by_tag={tag: _written(by_tag[tag]) for tag in sorted(by_tag)},
        days_to_pay=(invoice.due - invoice.issued.date()).days,
    )


def _written(amount: Decimal) -> str:
    """Return the shortest text with at least two digits after the point: 60 is `60.00`."""
    cents = amount.quantize(Decimal("0.01"))
    return format(cents if cents == amount else amount.normalize(), "f")
