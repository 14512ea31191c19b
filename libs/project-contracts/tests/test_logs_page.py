"""docs/reference/logs.md says what is on every line; what else is there, the projects' own tests compare."""

import json
import logging
import re
from pathlib import Path

from project_contracts import logs
from project_contracts.ecs import EcsFormatter

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "logs.md").read_text()


def fields(section: str) -> set[str]:
    """The names in the first column of a section's table."""
    rows = PAGE.partition(f"\n### {section}\n")[2].partition("\n#")[0]
    return set(re.findall(r"^\| `([^`]+)`", rows, re.MULTILINE))


def test_the_page_has_the_fields_of_every_line_and_of_an_exception() -> None:
    formatter = EcsFormatter(
        about=lambda record: {logs.DATASET: logs.APP},
        service={"name": "x", "version": "1", "environment": "production"},
        hidden=frozenset(),
    )
    record = logging.LogRecord("x.y", logging.INFO, "f.py", 1, "it is so", (), None)
    plain = set(json.loads(formatter.format(record)))
    assert fields("Every line") == plain
    record.exc_info = (ValueError, ValueError("no"), None)
    assert fields("Lines with an exception") == json.loads(formatter.format(record)).keys() - plain
