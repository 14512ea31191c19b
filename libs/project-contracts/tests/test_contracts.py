"""The contracts themselves: what both projects may rely on."""

import importlib
import json
import pkgutil
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

import project_contracts
from project_contracts.contract import NoPayload, Payload, TaskContract
from project_contracts.statistics import CONTINENTS, ContinentReport

CONTRACTS: list[TaskContract[Any, Any]] = [
    value
    for module in pkgutil.iter_modules(project_contracts.__path__)
    for value in vars(importlib.import_module(f"project_contracts.{module.name}")).values()
    if isinstance(value, TaskContract)
]


def test_names_are_published_and_stable() -> None:
    """Task names are wire format: changing one breaks every message on its way."""
    assert sorted(contract.name for contract in CONTRACTS) == [
        "project-worker.continent_statistics",
        "project-worker.country_statistics",
        "project-worker.finish_import",
        "project-worker.integer_multiplication",
        "project-worker.integers_sum",
        "project-worker.invoice_total",
        "project-worker.load_part",
        "project-worker.stage_geonames",
        "project-worker.worker_information",
        "project-worker.world_report",
    ]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
class TestEachContract:
    def test_name_starts_with_its_service_and_so_does_its_queue(self, contract: TaskContract[Any, Any]) -> None:
        service, _, _ = contract.name.partition(".")
        assert contract.queue == (service if contract.serializer == "json" else f"{service}-pickle")

    def test_payload_is_strict_closed_and_immutable(self, contract: TaskContract[Any, Any]) -> None:
        assert issubclass(contract.payload, Payload)
        config = contract.payload.model_config
        assert (config["strict"], config["extra"], config["frozen"]) == (True, "forbid", True)

    def test_result_has_a_json_schema(self, contract: TaskContract[Any, Any]) -> None:
        """It is what /docs shows."""
        assert json.dumps(TypeAdapter(contract.result).json_schema(mode="serialization"))

    def test_contract_is_a_value(self, contract: TaskContract[Any, Any]) -> None:
        with pytest.raises(AttributeError):
            contract.name = "another"  # type: ignore[misc]  # that it cannot be set is the test


def test_task_without_arguments_takes_none() -> None:
    assert NoPayload().model_dump() == {}
    with pytest.raises(ValueError, match="Extra inputs"):
        NoPayload.model_validate({"unexpected": 1})


def test_continents_are_the_seven() -> None:
    assert CONTINENTS == ("AF", "AN", "AS", "EU", "NA", "OC", "SA")


def test_report_with_an_unknown_field_is_refused() -> None:
    """A worker of another version must not be misread in silence."""
    assert issubclass(ContinentReport, BaseModel)
    with pytest.raises(ValueError, match="Extra inputs"):
        ContinentReport.model_validate({"continent": "EU", "invented": 1})
