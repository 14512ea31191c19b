"""Taking PromQL apart, and what may be asked for: the names and types of all metrics that anything exports.

`metric_names/*.names.txt` are the pages of Debian's exporters as scraped, a name and a type a line. `ours` is the
catalogue of our own metrics; `prometheus_more` is what Prometheus adds to every scrape, or counts only once it
has an Alertmanager and data; `cadvisor` is what the rules for containers use; `newer` is what newer servers than
Debian 12's export instead of a name of theirs.
"""

from collections.abc import Iterator
from pathlib import Path

import promql_parser as promql
import yaml

ROOT = Path(__file__).parents[4]
NAMES = Path(__file__).parent / "metric_names"
WINDOWED = {"rate", "increase", "irate", "resets", "max_over_time"}


def types_of_metrics() -> dict[str, str]:
    """Every series' name with its type; a histogram's three are counters."""
    types: dict[str, str] = {}
    for path in NAMES.glob("*.names.txt"):
        for name, kind in map(str.split, path.read_text().splitlines()):
            if kind == "histogram":
                types |= {f"{name}_{suffix}": "counter" for suffix in ("bucket", "sum", "count")}
            elif kind == "summary":
                types |= {f"{name}_{suffix}": "counter" for suffix in ("sum", "count")} | {name: "gauge"}
            else:
                types[name] = kind
    return types | dict.fromkeys(recorded(), "gauge")


def rules() -> list[dict[str, str]]:
    """Every rule of infra/prometheus/rules."""
    files = [yaml.safe_load(path.read_text()) for path in ROOT.glob("infra/prometheus/rules/*.yml")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def recorded() -> set[str]:
    """What the recording rules record."""
    return {rule["record"] for rule in rules() if "record" in rule}


def metrics_of(expr: str) -> Iterator[tuple[str, bool]]:
    """Each metric that an expression reads, and whether in what counters are read in: rate() or the like."""
    yield from _walk(promql.parse(expr.replace("$__rate_interval", "20s").replace("$__range", "30m")), False)


def _walk(node: object, is_windowed: bool) -> Iterator[tuple[str, bool]]:
    match node:
        case promql.VectorSelector():
            yield node.name or "", is_windowed
        case promql.MatrixSelector():
            yield from _walk(node.vector_selector, is_windowed)
        case promql.Call():
            for argument in node.args:
                yield from _walk(argument, is_windowed or node.func.name in WINDOWED)
        case promql.BinaryExpr():
            yield from _walk(node.lhs, is_windowed)
            # What stands after `unless` is not calculated with: only whether it is there counts.
            yield from _walk(node.rhs, is_windowed or str(node.op) == "unless")
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _walk(node.expr, is_windowed)
        case _:
            assert isinstance(node, promql.NumberLiteral | promql.StringLiteral), node
