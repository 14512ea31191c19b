"""A dashboard as its JSON says it: what the pictures and the tests read.

How it works: only what our own dashboards use is understood, and anything else is refused, so that no picture
leaves out in silence what Grafana would show.

What belongs here: reading. How the JSON is written is in `panels.py`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("timeseries", "stat", "bargauge")
"""The types of panels that are understood; `row` is a headline."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A query of a panel. `legend` holds `{{label}}` where a label's value is meant."""

    expr: str
    legend: str
    is_instant: bool


@dataclass(frozen=True, kw_only=True)
class Area:
    """Where something lies, in cells: a dashboard is 24 wide."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel. `steps` are the colours from a value on, in rising order; the first has no value.

    `unstacked` names the lines of a stacked panel that do not lie upon the others.
    """

    kind: str
    title: str
    description: str
    unit: str
    area: Area
    targets: Sequence[Target]
    is_stacked: bool
    unstacked: frozenset[str]
    steps: Sequence[tuple[float | None, str]]
    decimals: int | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A headline over the whole width."""

    title: str
    area: Area


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A dashboard."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    panels: Sequence[Panel]


def read(path: Path) -> Dashboard:
    """Return the dashboard of a file.

    Raises:
        ValueError: It has a panel of a type that is not understood.
    """
    raw = json.loads(path.read_text())
    rows = [Row(title=one["title"], area=_area(one["gridPos"])) for one in raw["panels"] if one["type"] == "row"]
    panels = [_panel(one) for one in raw["panels"] if one["type"] != "row"]
    return Dashboard(uid=raw["uid"], title=raw["title"], description=raw["description"], rows=rows, panels=panels)


def _panel(raw: Mapping[str, Any]) -> Panel:
    if raw["type"] not in KINDS:
        raise ValueError(f"{raw['title']} is a panel of type {raw['type']}; understood are {', '.join(KINDS)}")
    config = raw["fieldConfig"]
    defaults = config["defaults"]
    unstacked = {
        one["matcher"]["options"]
        for one in config.get("overrides", ())
        for changed in one["properties"]
        if changed["id"] == "custom.stacking" and changed["value"]["mode"] == "none"
    }
    return Panel(
        kind=raw["type"],
        title=raw["title"],
        description=raw.get("description", ""),
        unit=defaults.get("unit", ""),
        area=_area(raw["gridPos"]),
        targets=[
            Target(expr=one["expr"], legend=one["legendFormat"], is_instant=one.get("instant", False))
            for one in raw["targets"]
        ],
        is_stacked=defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal",
        unstacked=frozenset(unstacked),
        steps=[(step["value"], step["color"]) for step in defaults.get("thresholds", {}).get("steps", ())],
        decimals=defaults.get("decimals"),
    )


def _area(raw: Mapping[str, int]) -> Area:
    return Area(x=raw.get("x", 0), y=raw.get("y", 0), width=raw["w"], height=raw["h"])
