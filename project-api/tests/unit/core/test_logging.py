"""The API's lines: an access line in both formats, and whose request a line is for."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.core import context
from app.core.config import Settings
from app.core.logging import Access, configure_logging
from project_contracts import traces


@pytest.fixture(autouse=True)
def logging_is_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def access(*, path: str = "/v1/tasks/7", status: int = 200, tasks: Sequence[str] = ()) -> Access:
    return Access("GET", path, "/v1/tasks/{task_id}", status, 8_120_000, tasks)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    return line


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(said(capsys))
    return line


def test_a_person_reads_an_access_line(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings)
    with context.on_behalf_of("request-1"):
        logging.getLogger("app.access").info(access())
    assert said(capsys).endswith(" INFO    app.access [request-1] GET /v1/tasks/7 200 8.1 ms\n")


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_path_writes_no_line_of_its_own(
    settings: Settings, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    configure_logging(settings.model_copy(update={"log_format": form}))
    logging.getLogger("app.access").info(access(path="/x\n2026-11-22 09:00:00,000 ERROR app [-] it burns"))
    assert "/x%0A2026" in said(capsys)


PIECES = st.sampled_from(
    ["password=hunter2", "token: x", "a://u:p@h", '"', "\\", "\n", "\u2028", "é", "\ud800", "x" * 9000]
)
ODD = st.lists(st.text(max_size=5) | PIECES, max_size=4).map("".join)
ROUTES = st.sampled_from(["/v1/tasks/{task_id}", "__unmatched__", "/"])
ACCESSES = st.builds(
    Access,
    st.sampled_from(["GET", "POST", "X" * 100]) | ODD,
    ROUTES | ODD,
    ROUTES,
    st.sampled_from([0, 200, 404, 499, 500, 599]),
    st.integers(0, 1 << 62),
    st.lists(st.uuids().map(str), max_size=12) | st.lists(st.text(max_size=5), max_size=2),
)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACCESSES)
def test_the_short_way_writes_what_the_fields_are(access: Access) -> None:
    for each in (access, access, access._replace(path=access.route), access._replace(status=201)):
        written = f"{{{each.json()}}}"
        assert written.isascii() and written.isprintable()
        pairs = json.loads(written, object_pairs_hook=list)
        assert len(pairs) == len(dict(pairs))
        assert dict(pairs) == {"message": str(each), **each.fields()}
        assert written.startswith('{"message":')
        assert "hunter2" not in written


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_path_shows_no_secret(settings: Settings, capsys: pytest.CaptureFixture[str], form: str) -> None:
    configure_logging(settings.model_copy(update={"log_format": form}))
    logging.getLogger("app.access").info(access(path="/a://user:hunter2@host/\n"))
    assert "hunter2" not in said(capsys)


def test_production_writes_documents(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings.model_copy(update={"environment": "production"}))
    with context.on_behalf_of("request-1"):
        logging.getLogger("app.access").info(access())
    line = document(capsys)
    assert line.pop("@timestamp").endswith("Z")
    assert line.pop("ecs.version")
    assert line == {
        "log.level": "info",
        "message": "GET /v1/tasks/7 200 8.1 ms",
        "log.logger": "app.access",
        "service.name": "full-stack-fastapi-celery",
        "service.version": "0.1.0",
        "service.environment": "production",
        "event.dataset": "fsfc.access",
        "event.action": "http-request",
        "event.outcome": "success",
        "event.duration": 8_120_000,
        "http.request.id": "request-1",
        "trace.id": "request-1",
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/v1/tasks/{task_id}",
        "url.path": "/v1/tasks/7",
    }


@pytest.mark.parametrize(
    ("sent", "said_of_it", "field"),
    [
        (["a"], ", sent a", "a"),
        (["a", "b"], ", sent a, b", ["a", "b"]),
        (["a"] * 11, f", sent {', '.join(['a'] * 10)}", ["a"] * 10),
    ],
)
def test_a_request_s_line_names_the_tasks_that_it_sent(
    settings: Settings, capsys: pytest.CaptureFixture[str], sent: list[str], said_of_it: str, field: object
) -> None:
    configure_logging(settings.model_copy(update={"log_format": "json"}))
    logging.getLogger("app.access").info(access(tasks=sent))
    line = document(capsys)
    assert (line["message"], line["celery.task.id"]) == (f"GET /v1/tasks/7 200 8.1 ms{said_of_it}", field)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "success"), (404, "success"), (499, "unknown"), (500, "failure"), (503, "failure")],
)
def test_the_outcome_is_the_api_s(
    settings: Settings, capsys: pytest.CaptureFixture[str], status: int, outcome: str
) -> None:
    configure_logging(settings.model_copy(update={"log_format": "json"}))
    logging.getLogger("app.access").info(access(status=status))
    assert document(capsys)["event.outcome"] == outcome


def test_a_line_of_a_span_names_it(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging(settings.model_copy(update={"log_format": "json"}))
    monkeypatch.setattr(traces, "current", lambda: traces.Trace("c" * 32, "d" * 16))
    with context.on_behalf_of("request-1"):
        logging.getLogger("app.access").info(access())
    line = document(capsys)
    assert (line["trace.id"], line["span.id"], line["http.request.id"]) == ("c" * 32, "d" * 16, "request-1")


PAGE = (Path(__file__).parents[4] / "docs" / "reference" / "logs.md").read_text()


def section(heading: str) -> str:
    """A section of the page that lists the fields."""
    return PAGE.partition(f"\n### {heading}\n")[2].partition("\n#")[0]


def fields(heading: str) -> set[str]:
    """The names in the first column of a section's table."""
    return set(re.findall(r"^\| `([^`]+)`", section(heading), re.MULTILINE))


def test_the_page_has_the_fields_that_a_line_can_have(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging(settings.model_copy(update={"log_format": "json"}))
    monkeypatch.setattr(traces, "current", lambda: traces.Trace("c" * 32, "d" * 16))
    with context.on_behalf_of("request-1"):
        logging.getLogger("app.access").info(access(tasks=["a"]))
    assert fields("Lines of the API") == document(capsys).keys() - fields("Every line")


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "app.relay"])
def test_other_lines_are_the_app_s(settings: Settings, capsys: pytest.CaptureFixture[str], name: str) -> None:
    configure_logging(settings.model_copy(update={"log_format": "json"}))
    logging.getLogger(name).info("it is %s", "so")
    line = document(capsys)
    assert (line["event.dataset"], line["log.logger"], line["message"]) == ("fsfc.app", name, "it is so")
    assert "http.request.id" not in line


def test_uvicorn_s_access_lines_are_not_written_twice(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(settings)
    logging.getLogger("uvicorn.access").info("GET / 200")
    assert capsys.readouterr().out == ""
