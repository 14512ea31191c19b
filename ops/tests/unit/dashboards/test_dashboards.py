"""The dashboards' JSON: what is committed is what the Python says, and says what each panel is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from promql import ROOT, metrics_of, rules, types_of_metrics

from dashboards import files, model, units
from dashboards.panels import DOCKER_ONLY, EMPTY
from dashboards.prometheus import Span, fill_in

FOLDER = ROOT / "infra" / "grafana" / "dashboards"
PATHS = sorted(FOLDER.glob("*.json"))
PANELS = [
    pytest.param(panel, id=f"{path.stem}: {panel.title}") for path in PATHS for panel in model.read(path).panels
]
TYPES = types_of_metrics()


def test_the_committed_files_are_what_the_python_says() -> None:
    texts = files.texts()
    assert {path.name for path in PATHS} == set(texts)
    for path in PATHS:
        assert path.read_text() == texts[path.name], f"{path.name}: run ./stack dashboards"


def test_addresses_are_stable() -> None:
    raw = {path.stem: json.loads(path.read_text()) for path in PATHS}
    assert {name: one["uid"] for name, one in raw.items()} == {
        name: f"fsfc-{name}"
        for name in (
            "journey", "api", "workers", "rabbitmq", "postgres", "redis", "hosts", "monitoring", "slos"
        )
    }  # fmt: skip
    for one in raw.values():
        ids = [panel["id"] for panel in one["panels"]]
        assert ids == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_grafanas_own_model_reads_all_that_is_written(path: Path) -> None:
    raw = json.loads(path.read_text())
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(raw))) == raw


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_dashboard_leads_to_the_others(path: Path) -> None:
    raw = json.loads(path.read_text())
    menus = [link for link in raw["links"] if link["type"] == "dashboards"]
    assert [menu["tags"] for menu in menus] == [raw["tags"]]
    assert all(link["title"] and link["url"] for link in raw["links"] if link["type"] == "link")
    if path.stem in {"journey", "api", "workers"}:  # where one asks what happened to one task
        assert any("--task" in link["title"] for link in raw["links"])
        assert any("timeline" in link["title"] for link in raw["links"])


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_data_source_is_the_provisioned_one(path: Path) -> None:
    provisioned = yaml.safe_load((ROOT / "infra/grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    known = [{"type": one["type"], "uid": one["uid"]} for one in provisioned]

    def sources(node: Any) -> list[Any]:
        if isinstance(node, list):
            return [found for one in node for found in sources(one)]
        if not isinstance(node, dict):
            return []
        here = [node["datasource"]] if "datasource" in node else []
        return here + [found for one in node.values() for found in sources(one)]

    raw = json.loads(path.read_text())
    assert "__inputs" not in raw
    found = sources(raw)
    assert len(found) > len(raw["panels"])
    assert all(one in known for one in found)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_panels_lie_beside_each_other_and_fill_their_rows(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    dashboard = model.read(path)
    for area in [*(row.area for row in dashboard.rows), *(panel.area for panel in dashboard.panels)]:
        cells = {(area.x + x, area.y + y) for x in range(area.width) for y in range(area.height)}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    highest = max(y for _, y in taken)
    assert len(taken) == 24 * (highest + 1)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows(panel: model.Panel) -> None:
    assert panel.title
    assert panel.description.endswith(".") or "SELECT" in panel.description
    assert units.write(1.5, panel.unit)
    assert panel.targets
    for target in panel.targets:
        assert target.legend
        assert target.is_instant == (panel.kind != "timeseries")


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_asks_for_what_is_exported_and_takes_rates_of_counters(panel: model.Panel) -> None:
    for target in panel.targets:
        for metric, is_windowed in metrics_of(target.expr):
            assert metric in TYPES, f"nothing exports {metric}"
            # Recorded rules are means; node_exporter leaves the type of the kernel's counters open.
            if TYPES[metric] == "counter":
                assert is_windowed, f"{metric} is a counter outside of rate() and increase()"
            elif TYPES[metric] == "gauge":
                assert not is_windowed, f"{metric} is a gauge within rate() or increase()"


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_no_variable_that_nobody_fills_in(panel: model.Panel) -> None:
    for target in panel.targets:
        filled_in = fill_in(target.expr, Span(end=0, seconds=1800))
        assert "$" not in filled_in.replace('"$1"', "")  # label_replace's own


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_when_it_asks_for_what_only_docker_has(panel: model.Panel) -> None:
    metrics = {metric for target in panel.targets for metric, _ in metrics_of(target.expr)}
    assert (DOCKER_ONLY in panel.description) == any(metric.startswith("container_") for metric in metrics)


def test_a_point_beside_a_latency_leads_to_its_trace() -> None:
    (source,) = yaml.safe_load((ROOT / "infra/grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "trace_id"  # as the API names it
    assert "$${__value.raw}" in destination["url"]  # one $ would be taken for Grafana's environment
    panels = {panel["title"]: panel for path in PATHS for panel in json.loads(path.read_text())["panels"]}
    assert any(target.get("exemplar") for target in panels["Latency of all requests"]["targets"])


def test_few_panels_are_empty_when_healthy() -> None:
    empty = [panel for (panel,) in (one.values for one in PANELS) if EMPTY in panel.description]  # type: ignore[union-attr]
    assert len(empty) <= 0.1 * len(PANELS)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_what_is_exported(rule: dict[str, str]) -> None:
    for metric, _ in metrics_of(rule["expr"]):
        assert metric in TYPES, f"nothing exports {metric}"


def test_the_page_of_the_dashboards_has_each_with_its_picture() -> None:
    page = ROOT / "docs" / "reference" / "dashboards.md"
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [board.full_title for board in files.BOARDS]
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", text, re.MULTILINE)
    assert [Path(one).stem for one in pictures] == [board.uid.removeprefix("fsfc-") for board in files.BOARDS]
    for one in pictures:
        assert (page.parent / one).stat().st_size < 150_000
