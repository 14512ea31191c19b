"""Writes what Kibana imports: `python infra/kibana/saved_objects.py`, into saved-objects.ndjson beside it.

How it works: one data view for the three data streams, three searches for the questions people come with, and a
dashboard of what is going on. Their ids never change: an import replaces an earlier one's, and links hold. Kibana
keeps JSON texts within JSON: nobody would write that by hand.

What belongs here: what people see in Kibana. The file that it writes is committed, and `kibana-setup` imports it;
a test compares them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("saved-objects.ndjson")

DATA_VIEW = "projects-logs"
"""The data view's id."""

Object = dict[str, Any]

# Of Kibana's last releases before its objects got versions of their own: newer ones bring them up to date.
_CORE = "8.8.0"
_VERSIONS = {"index-pattern": "8.0.0", "search": "8.0.0", "lens": "8.9.0", "dashboard": "8.9.0"}


def objects() -> list[Object]:
    """Return all of them; none stands before what it refers to."""
    searches = [
        search(
            "projects-one-request",
            "One request: put its X-Request-ID in place of ID",
            "All that was done for one request, in the API and in the workers, by time.",
            'http.request.id : "ID" or trace.id : "ID"',
            ("service.name", "log.level", "message", "celery.task.name", "celery.task.id"),
            "asc",
        ),
        search(
            "projects-one-task",
            "One task: put its id in place of ID",
            "The request that sent it, its runs, and the tasks that it sent, by time.",
            'celery.task.id : "ID" or celery.task.parent_id : "ID" or celery.task.root_id : "ID"',
            ("service.name", "event.action", "message", "celery.task.retries", "http.request.id"),
            "asc",
        ),
        search(
            "projects-errors",
            "Errors",
            "What went wrong: lines of errors, failed tasks, answers 5xx. The newest first.",
            'log.level : ("error" or "critical") or event.outcome : "failure"',
            ("service.name", "event.dataset", "message", "error.type", "http.request.id"),
            "desc",
        ),
    ]
    charts = [
        chart(
            "projects-lines",
            "Lines per dataset",
            "",
            {"time": over_time(), "dataset": most_frequent("event.dataset", 3, "count"), "count": lines()},
            stacked_bars(),
        ),
        chart(
            "projects-problems",
            "Problems per service",
            'log.level : ("error" or "critical") or event.outcome : "failure"',
            {"time": over_time(), "dataset": most_frequent("service.name", 5, "count"), "count": lines()},
            stacked_bars(),
        ),
        chart(
            "projects-slowest-routes",
            "Slowest routes (ns, 95th percentile)",
            'event.dataset : "fsfc.access"',
            {"what": most_frequent("http.route", 10, "slow"), "count": lines(), "slow": slowness()},
            table(),
        ),
        chart(
            "projects-slowest-tasks",
            "Slowest tasks (ns, 95th percentile)",
            'event.dataset : "fsfc.task" and event.duration : *',
            {"what": most_frequent("celery.task.name", 10, "slow"), "count": lines(), "slow": slowness()},
            table(),
        ),
    ]
    return [data_view(), *searches, *charts, dashboard([*charts, searches[-1]])]


def data_view() -> Object:
    """Return what says which documents there are: those of our three data streams."""
    attributes = {
        "title": "logs-fsfc.*",
        "name": "Log lines of the projects",
        "timeFieldName": "@timestamp",
        "allowNoIndex": True,  # before the first line
    }
    return saved("index-pattern", DATA_VIEW, attributes)


def search(
    identifier: str, title: str, description: str, query: str, columns: Sequence[str], order: str
) -> Object:
    """Return a search; `query` is in Kibana's language, KQL."""
    name = "kibanaSavedObjectMeta.searchSourceJSON.index"
    attributes = {
        "title": title,
        "description": description,
        "columns": list(columns),
        "sort": [["@timestamp", order]],
        "grid": {},
        "hideChart": False,
        "kibanaSavedObjectMeta": {
            "searchSourceJSON": text({"query": kql(query), "filter": [], "indexRefName": name})
        },
    }
    return saved("search", identifier, attributes, [("index-pattern", DATA_VIEW, name)])


def chart(
    identifier: str, title: str, query: str, columns: Mapping[str, Object], visualization: tuple[str, Object]
) -> Object:
    """Return a panel (Kibana calls it Lens): columns, and how they are drawn."""
    kind, drawn = visualization
    layer = {"columnOrder": list(columns), "columns": dict(columns), "incompleteColumns": {}}
    attributes = {
        "title": title,
        "visualizationType": kind,
        "state": {
            "datasourceStates": {"formBased": {"layers": {"lines": layer}}},
            "visualization": drawn,
            "query": kql(query),
            "filters": [],
        },
    }
    return saved(
        "lens", identifier, attributes, [("index-pattern", DATA_VIEW, "indexpattern-datasource-layer-lines")]
    )


def over_time() -> Object:
    """Return a column of points in time, as close as the chosen span allows."""
    return {
        "label": "time",
        "dataType": "date",
        "operationType": "date_histogram",
        "sourceField": "@timestamp",
        "isBucketed": True,
        "scale": "interval",
        "params": {"interval": "auto", "includeEmptyRows": True, "dropPartials": False},
    }


def most_frequent(field: str, size: int, by: str) -> Object:
    """Return a column of a field's values: the first `size` by another column, largest first."""
    return {
        "label": field,
        "dataType": "string",
        "operationType": "terms",
        "sourceField": field,
        "isBucketed": True,
        "scale": "ordinal",
        "params": {
            "size": size,
            "orderBy": {"type": "column", "columnId": by},
            "orderDirection": "desc",
            "otherBucket": False,
            "missingBucket": False,
        },
    }


def lines() -> Object:
    """Return a column that counts lines."""
    return {
        "label": "lines",
        "dataType": "number",
        "operationType": "count",
        "sourceField": "___records___",
        "isBucketed": False,
        "scale": "ratio",
        "params": {},
    }


def slowness() -> Object:
    """Return a column of durations: 95 of 100 took no longer."""
    return {
        "label": "p95 (ns)",
        "dataType": "number",
        "operationType": "percentile",
        "sourceField": "event.duration",
        "isBucketed": False,
        "scale": "ratio",
        "params": {"percentile": 95},
    }


def stacked_bars() -> tuple[str, Object]:
    """Return how `time`, `dataset` and `count` are drawn."""
    layer = {
        "layerId": "lines",
        "layerType": "data",
        "seriesType": "bar_stacked",
        "xAccessor": "time",
        "splitAccessor": "dataset",
        "accessors": ["count"],
    }
    return "lnsXY", {
        "legend": {"isVisible": True, "position": "right"},
        "preferredSeriesType": "bar_stacked",
        "valueLabels": "hide",
        "layers": [layer],
    }


def table() -> tuple[str, Object]:
    """Return how `what`, `count` and `slow` are shown."""
    columns = [{"columnId": name} for name in ("what", "count", "slow")]
    return "lnsDatatable", {"layerId": "lines", "layerType": "data", "columns": columns}


def dashboard(shown: Sequence[Object]) -> Object:
    """Return the dashboard: charts in two columns, what is no chart below them, as wide as the page."""
    panels = []
    references = []
    for number, each in enumerate(shown):
        name, width = f"panel_{number}", 24 if each["type"] == "lens" else 48  # of 48
        place = {"x": number % 2 * 24, "y": number // 2 * 12, "w": width, "h": 12, "i": str(number)}
        panels.append(
            {
                "type": each["type"],
                "gridData": place,
                "panelIndex": str(number),
                "embeddableConfig": {},
                "panelRefName": name,
            }
        )
        references.append((each["type"], each["id"], f"{number}:{name}"))
    attributes = {
        "title": "Log lines of the projects",
        "description": "How much is said, what goes wrong, what is slow.",
        "panelsJSON": text(panels),
        "optionsJSON": text({"useMargins": True, "hidePanelTitles": False}),
        "timeRestore": False,
        "kibanaSavedObjectMeta": {"searchSourceJSON": text({"query": kql(""), "filter": []})},
    }
    return saved("dashboard", "projects-logs", attributes, references)


def saved(
    kind: str, identifier: str, attributes: Object, references: Iterable[tuple[str, str, str]] = ()
) -> Object:
    """Return an object as Kibana exports it; a reference is a type, an id and the name it goes by."""
    return {
        "type": kind,
        "id": identifier,
        "attributes": attributes,
        "references": [{"type": to, "id": other, "name": name} for to, other, name in references],
        "managed": False,
        "coreMigrationVersion": _CORE,
        "typeMigrationVersion": _VERSIONS[kind],
    }


def kql(query: str) -> Object:
    """Return a query in Kibana's language."""
    return {"query": query, "language": "kuery"}


def text(value: object) -> str:
    """Return JSON, for a place where Kibana wants a text."""
    return json.dumps(value, separators=(",", ":"))


def rendered() -> str:
    """Return the file's content: an object per line."""
    return "".join(json.dumps(each, separators=(",", ":")) + "\n" for each in objects())


if __name__ == "__main__":
    FILE.write_text(rendered())
