"""The page that lists the metrics says what a worker really exports, all of it and nothing else.

How it works: a worker runs a task that succeeds and one that fails, so that every figure has a series. What its
endpoint answers is written as the rows of the page's tables, and compared with the page's own.
"""

import re
from pathlib import Path

import pytest
from celery.exceptions import CeleryError
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from test_metrics import free_port, lines
from worker_process import IMPORT_ROOT, SEED_COMMAND, running_worker, wait_until

from project_contracts.integers import INTEGERS_SUM

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
_PROCESS = "process_"
"""What prometheus_client's own figures begin with."""


def rows() -> tuple[set[str], dict[str, str]]:
    """Return the workers' rows of the page: those of figures, and the names of buckets by their bounds."""
    _, heading, part = PAGE.read_text().partition("\n## The workers\n")
    assert heading, "the page has no such part"
    figures = {line for line in part.splitlines() if line.startswith("| `")}
    named = (re.fullmatch(r"\| (\w+) \| ([\d., ]+) \|", line) for line in part.splitlines())
    return figures, {found[2]: found[1] for found in named if found}


def row(family: Metric, buckets: dict[str, str]) -> str:
    """Return a figure's row."""
    labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
    kind = family.type
    if family.type == "histogram":
        bounds = {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
        finite = ", ".join(f"{bound:g}" for bound in sorted(bounds - {float("inf")}))
        kind += f": {buckets.get(finite, finite)}"
    name = family.name + ("_total" if family.type == "counter" else "")
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |"


def test_the_page_lists_what_a_worker_exports(tmp_path: Path) -> None:
    port = free_port()
    with running_worker(
        tmp_path,
        SEED_COMMAND,
        IMPORT_ROOT,
        WORKER_METRICS_PORT=port,
        WORKER_METRICS_DIRECTORY=tmp_path / "metrics",
    ) as worker:
        assert worker.send(INTEGERS_SUM, integers=[1, 2]).get(timeout=20) == 3
        with pytest.raises((CeleryError, TypeError, ValueError)):
            worker.send(INTEGERS_SUM, integers="none").get(timeout=20)
        wait_until(lambda: any(line.startswith("celery_worker_task_failures_total{") for line in lines(port)))
        families = list(text_string_to_metric_families("\n".join(lines(port)) + "\n"))
    listed, buckets = rows()
    exported = {row(family, buckets) for family in families if not family.name.startswith(_PROCESS)}
    assert exported - listed == set(), "not on the page"
    assert listed - exported == set(), "on the page alone"
    assert {
        name for name in buckets.values() if not any(f"histogram: {name} |" in line for line in listed)
    } == set()
    assert any(family.name.startswith(_PROCESS) for family in families)
