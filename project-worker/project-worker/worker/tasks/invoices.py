"""The invoice task, whose arguments come as signed pickle.

What belongs here: adapters from the contracts of `project_contracts.invoices` to `worker.domain.invoices`."""

from project_contracts.invoices import INVOICE_TOTAL, Invoice, InvoiceTotals
from worker.domain import invoices as domain
from worker.tasks.binding import TaskBinder


def register(task: TaskBinder) -> None:
    """Register the invoice task."""

    @task(INVOICE_TOTAL)
    def invoice_total(invoice: Invoice) -> InvoiceTotals:
        """Return an invoice's totals."""
        return domain.add_up(invoice)
