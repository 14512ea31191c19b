"""Log lines: level, format, destination, and what a worker's lines are about."""

import inspect
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # older stubs
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, signals
from celery.app import trace
from celery.worker import request, strategy

from async_celery.worker import reaper
from async_celery.worker import request as our_request
from async_celery.worker import task as our_task
from async_celery.worker.subject import busy_with, subject_of_request
from project_contracts import traces
from worker import logging as worker_logging
from worker.config import Settings
from worker.logging import install_logging


@pytest.fixture(autouse=True)
def logging_is_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setenv("CELERY_LOG_REDIRECT", "")
    monkeypatch.setenv("CELERY_LOG_REDIRECT_LEVEL", "")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def set_up(app: Celery, settings: Settings, *, asked: str = "INFO", **changed: object) -> None:
    install_logging(app, settings.model_copy(update=changed))
    signals.setup_logging.send(sender=None, loglevel=logging.getLevelNamesMapping()[asked], logfile=None)


REQUEST: Mapping[str, Any] = {
    "id": "db62ce71-6b02-8b35-aec8-78b61ab8f79c",
    "task": "integers.sum",
    "retries": 2,
    "root_id": "root",
    "parent_id": None,
    "x-request-id": "request-1",
    "delivery_info": {"routing_key": "0." * 27 + "1.project-worker"},
}


@pytest.mark.parametrize(
    ("setting", "asked", "shown"),
    [("INFO", "WARNING", "INFO"), ("ERROR", "DEBUG", "DEBUG"), ("INFO", "INFO", "INFO")],
)
def test_the_more_talkative_of_setting_and_option_wins(
    app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str], setting: str, asked: str, shown: str
) -> None:
    set_up(app, settings, asked=asked, log_level=setting, log_format="console")
    assert logging.getLogger().level == logging.getLevelNamesMapping()[shown]

    line = capsys.readouterr().out
    assert line.count("\n") == 1  # installed once, however many apps the process has made
    assert "INFO    MainProcess worker [-] project-worker 0.1.0 (production): Works the tasks" in line


def test_lines_go_to_stdout_one_per_event(
    app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(app, settings, log_format="console")
    with busy_with(subject_of_request(REQUEST)):
        logging.getLogger("celery.worker").warning("something happened to %s", "a task")
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("WARNING MainProcess celery.worker [request-1] something happened to a task")
    )


def the_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return line


@pytest.mark.parametrize(
    ("environment", "chosen", "is_json"),
    [
        ("production", None, True),
        ("development", None, False),
        ("production", "console", False),
        ("development", "json", True),
    ],
)
def test_people_read_in_development_and_machines_in_production(
    app: Celery,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    environment: str,
    chosen: str | None,
    is_json: bool,
) -> None:
    set_up(app, settings, environment=environment, log_format=chosen)
    assert capsys.readouterr().out.startswith("{") is is_json


def test_a_json_line_says_what_it_is_about(
    app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(app, settings)
    context = {
        "id": REQUEST["id"],
        "name": "integers.sum",
        "runtime": 0.25,
        "return_value": "3",
        "args": "(1, 2)",
    }
    with busy_with(subject_of_request(REQUEST)):
        logging.getLogger("celery.app.trace").info(trace.LOG_SUCCESS, context, extra={"data": context})
    line = the_line(capsys)
    assert line.pop("@timestamp").endswith("Z")
    assert line.pop("ecs.version")
    assert line == {
        "log.level": "info",
        "message": f"Task integers.sum[{REQUEST['id']}] succeeded in 0.25s: 3",
        "log.logger": "celery.app.trace",
        "service.name": "project-worker",
        "service.version": "0.1.0",
        "service.environment": "production",
        "process.name": "MainProcess",
        "event.dataset": "fsfc.task",
        "event.action": "task-succeeded",
        "event.outcome": "success",
        "event.duration": 250_000_000,
        "http.request.id": "request-1",
        "trace.id": "request-1",
        "celery.task.id": REQUEST["id"],
        "celery.task.name": "integers.sum",
        "celery.task.retries": 2,
        "celery.task.queue": "project-worker",
        "celery.task.root_id": "root",
    }


TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def test_a_line_of_the_main_process_belongs_to_its_message_s_trace(
    app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(app, settings)
    with busy_with(subject_of_request({**REQUEST, "traceparent": TRACEPARENT})):
        logging.getLogger("celery.worker").info("received")
    line = the_line(capsys)
    assert (line["trace.id"], line["http.request.id"]) == ("a" * 32, "request-1")
    assert "span.id" not in line  # that of the header is its sender's


def test_a_line_of_a_span_names_it(
    app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(app, settings)
    monkeypatch.setattr(traces, "current", lambda: traces.Trace("c" * 32, "d" * 16))
    with busy_with(subject_of_request({**REQUEST, "traceparent": TRACEPARENT})):
        logging.getLogger("worker.tasks").info("working")
    line = the_line(capsys)
    assert (line["trace.id"], line["span.id"], line["http.request.id"]) == ("c" * 32, "d" * 16, "request-1")


PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "logs.md").read_text()


def section(heading: str) -> str:
    """A section of the page that lists the fields."""
    return PAGE.partition(f"\n### {heading}\n")[2].partition("\n#")[0]


def fields(heading: str) -> set[str]:
    """The names in the first column of a section's table."""
    return set(re.findall(r"^\| `([^`]+)`", section(heading), re.MULTILINE))


def test_the_page_has_the_fields_and_actions_that_a_line_can_have(
    app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(app, settings)
    monkeypatch.setattr(traces, "current", lambda: traces.Trace("c" * 32, "d" * 16))
    context = {"id": "7", "name": "integers.sum", "runtime": 0.25, "return_value": "3"}
    with busy_with(subject_of_request({**REQUEST, "parent_id": "parent"})):
        logging.getLogger("celery.app.trace").info(trace.LOG_SUCCESS, context, extra={"data": context})
    assert fields("Lines of the worker") == the_line(capsys).keys() - fields("Every line")
    actions = {action for action, _ in worker_logging._EVENTS.values()}
    assert set(re.findall(r"`(task-[a-z-]+)`", section("Lines of the worker"))) == actions


def test_what_a_stranger_writes_into_headers_harms_no_line(
    app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(app, settings)
    odd: dict[str, Any] = {
        "id": "x" * 1_000_000,
        "task": {"a": 1},
        "retries": "1",
        "x-request-id": "a\nb",
        "delivery_info": None,
    }
    odd |= {"traceparent": ["x"]}
    with busy_with(subject_of_request(odd)):
        logging.getLogger("celery.worker").info("odd")
    line = the_line(capsys)
    assert len(line["celery.task.id"]) < 10_000
    assert (
        not {"http.request.id", "trace.id", "celery.task.name", "celery.task.retries", "celery.task.queue"}
        & line.keys()
    )


def test_what_is_printed_is_a_line(app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(app, settings)
    worker = SimpleNamespace(app=None, quiet=False)
    signals.celeryd_after_setup.send(sender=None, instance=worker, conf=app.conf)
    assert worker.quiet  # no banner
    print("hello")  # noqa: T201 (what the test is about)
    line = the_line(capsys)
    assert (line["message"], line["log.logger"], line["event.dataset"]) == (
        "hello",
        "celery.redirected",
        "fsfc.app",
    )


def test_the_exception_behind_billiard_s_is_shown(
    app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(app, settings)
    wrapper = ExceptionWithTraceback(ValueError("lost"), None)
    logging.getLogger("celery.worker.request").error("gone", exc_info=(type(wrapper), wrapper, None))
    line = the_line(capsys)
    assert (line["error.type"], line["error.message"]) == ("ValueError", "lost")


class InTime:
    """The soft time limit, as billiard's handler of its signal raises it."""

    def __str__(self) -> str:
        raise SoftTimeLimitExceeded


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_soft_time_limit_comes_through_where_a_line_is_made(
    app: Celery, settings: Settings, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    set_up(app, settings, log_format=form)
    with pytest.raises(SoftTimeLimitExceeded):
        logging.getLogger("worker.tasks").info("working on %s", InTime())
    logging.getLogger("worker.tasks").info("cleaned up")
    assert "cleaned up" in capsys.readouterr().out


def test_each_event_s_message_is_one_that_somebody_writes() -> None:
    modules = (trace, strategy, request, our_request, our_task, reaper)
    written = "".join(inspect.getsource(module) for module in modules)
    of_celery = {getattr(trace, name) for name in dir(trace) if name.startswith("LOG_")}
    assert {text for text in worker_logging._EVENTS if text not in of_celery and text not in written} == set()
