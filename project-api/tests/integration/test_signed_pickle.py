"""The task whose arguments JSON cannot hold: JSON in, signed pickle to the worker, JSON out."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from processes import PICKLE_COMMAND, Api, Worker, wait_until

INVOICE_TOTAL = "/v1/project-worker/invoice-total"
LINE = {"label": "Paper", "quantity": "3", "unit_price": "19.99", "tags": ["office"]}
INVOICE = {"issued": "2026-11-22T23:30:00+01:00", "due": "2026-12-22", "lines": [LINE]}


@pytest.fixture(scope="module")
def pickle_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    running = Worker(tmp_path_factory.mktemp("pickle-worker") / "log", PICKLE_COMMAND)
    try:
        wait_until(running.ready, 30, "the worker is ready")
        yield running
    finally:
        running.stop()


@pytest.fixture
def http(api: Api) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=20) as client:
        yield client


def test_the_worker_gets_what_json_cannot_hold(http: httpx.Client, pickle_worker: Worker) -> None:
    response = http.post(INVOICE_TOTAL, json={"invoice": INVOICE})
    assert response.status_code == 200, response.text
    result = response.json()["result"]
    assert (result["total"], result["days_to_pay"]) == ("59.97", 30)
    assert result["total_by_tag"].keys() == {
        "project_contracts.invoices.Invoice",
        "project_contracts.invoices.InvoiceLine",
        "datetime.datetime",
        "datetime.date",
        "decimal.Decimal",
        "builtins.frozenset",
    }
    assert result["total_by_tag"]["decimal.Decimal"] == "Decimal('19.99')"
    # It is a task like any other.
    document = http.get(f"/v1/tasks/{response.json()['id']}").json()
    assert (document["status"], document["name"]) == ("SUCCESS", "project-worker.invoice_total")


def test_its_async_twin(http: httpx.Client, pickle_worker: Worker) -> None:
    location = http.post(f"{INVOICE_TOTAL}/async", json={"invoice": INVOICE}).headers["location"]
    assert http.get(location, params={"wait": 10}).json()["result"]["total"] == "59.97"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"issued": 1}, "body.invoice.issued"),
        ({"issued": "2026-11-22T23:30:00"}, "body.invoice.issued"),
        ({"due": "tomorrow"}, "body.invoice.due"),
        ({"lines": []}, "body.invoice.lines"),
        ({"lines": [{**LINE, "quantity": 3}]}, "body.invoice.lines.0.quantity"),
        ({"lines": [{**LINE, "unit_price": "NaN"}]}, "body.invoice.lines.0.unit_price"),
        ({"lines": [{**LINE, "tags": ["a", "a"]}]}, "body.invoice.lines.0.tags"),
        ({"lines": [{**LINE, "label": ""}]}, "body.invoice.lines.0.label"),
        ({"extra": 1}, "body.invoice.extra"),
    ],
)
def test_bad_input_names_its_field(http: httpx.Client, changes: dict[str, Any], field: str) -> None:
    response = http.post(INVOICE_TOTAL, json={"invoice": {**INVOICE, **changes}})
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == field


@pytest.mark.parametrize("content_type", ["application/x-signed-pickle", "application/x-python-serialize"])
def test_no_endpoint_takes_pickle(http: httpx.Client, content_type: str) -> None:
    """Security 2."""
    response = http.post(INVOICE_TOTAL, content=b"\x80\x04N.", headers={"Content-Type": content_type})
    assert response.status_code == 415
