"""Log lines: the two formats, what ecs-logging would make of them, and records that contradict themselves."""

import io
import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from string import printable
from typing import Any

import pytest
from ecs_logging import ECS_VERSION, StdlibFormatter
from hypothesis import given, settings
from hypothesis import strategies as st

from project_contracts import logs
from project_contracts.ecs import _STANDARD, EcsFormatter

SERVICE = {"name": "project-x", "version": "1", "environment": "production"}
REQUIRED = {
    "@timestamp",
    "log.level",
    "message",
    "ecs.version",
    "log.logger",
    "service.name",
    "service.version",
    "service.environment",
    "event.dataset",
}


def about(record: logging.LogRecord) -> logs.Fields:
    return {logs.DATASET: logs.APP, logs.REQUEST_ID: "request-1"}


class OddError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """A logger that writes JSON, with nobody to catch what a formatter raises."""
    logger = logging.Logger("x.y", logging.DEBUG)
    handler = logging.StreamHandler(out)
    handler.setFormatter(EcsFormatter(about=about, service=SERVICE, hidden=frozenset({"data"})))
    logger.addHandler(handler)

    def fail(record: logging.LogRecord) -> None:
        raise AssertionError("the line is lost") from sys.exc_info()[1]

    monkeypatch.setattr(handler, "handleError", fail)
    yield logger
    for line in out.getvalue().splitlines():
        assert json.loads(line).keys() >= REQUIRED


def the_line(out: io.StringIO) -> dict[str, Any]:
    [line] = out.getvalue().splitlines()
    document: dict[str, Any] = json.loads(line)
    return document


def test_a_plain_line(logger: logging.Logger, out: io.StringIO) -> None:
    logger.warning("it is %s\nin two lines", "so")
    line = the_line(out)
    assert line.pop("@timestamp").endswith("Z")
    assert line == {
        "log.level": "warning",
        "message": "it is so\nin two lines",
        "ecs.version": "1.6.0",
        "log.logger": "x.y",
        "service.name": "project-x",
        "service.version": "1",
        "service.environment": "production",
        "event.dataset": "fsfc.app",
        "http.request.id": "request-1",
    }


def flattened(document: dict[str, Any], front: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        flat |= flattened(value, f"{front}{name}.") if isinstance(value, dict) else {f"{front}{name}": value}
    return flat


@pytest.mark.parametrize("arguments", [("plain",), ("with %s and %d", "a text", 1), ("päth",)])
def test_the_short_way_gives_what_ecs_logging_gives(arguments: tuple[Any, ...]) -> None:
    ours = EcsFormatter(about=about, service=SERVICE, hidden=frozenset())
    theirs = StdlibFormatter(
        extra={f"service.{name}": value for name, value in SERVICE.items()} | about(logging.makeLogRecord({})),
        exclude_fields=["process", "log.origin", "log.original"],
    )
    record = logging.LogRecord("x.y", logging.INFO, "f.py", 1, arguments[0], arguments[1:], None)
    short = json.loads(ours.format(record))
    long = flattened(json.loads(theirs.format(record)))
    assert short.pop("@timestamp")[:-4] == long.pop("@timestamp")[:-4]  # they differ in how they round
    assert short == long


def test_extras_are_fields(logger: logging.Logger, out: io.StringIO) -> None:
    extra = {
        "http": {"request": {"method": "GET"}},
        "event.action": "look",
        "password": "hunter2",
        "data": {"a": 1},
    }
    logger.info("hello", extra=extra)
    line = the_line(out)
    assert (line["http.request.method"], line["event.action"]) == ("GET", "look")
    assert line["http.request.id"] == "request-1"
    assert line["password"] == "**"
    assert "data.a" not in line


def test_an_extra_does_not_say_which_schema_it_is(logger: logging.Logger, out: io.StringIO) -> None:
    logger.info("hello", extra={"ecs.version": []})
    assert the_line(out)["ecs.version"] == ECS_VERSION


def test_an_exception_has_its_causes_and_no_secret(logger: logging.Logger, out: io.StringIO) -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("amqp://user:hunter2@host") from error
    except ValueError:
        logger.exception("it failed", extra={"labels.part": 3}, stack_info=True)
    line = the_line(out)
    assert (line["error.type"], line["error.message"]) == ("ValueError", "amqp://user:**@host")
    assert "KeyError: 'first'" in line["error.stack_trace"]
    assert "Stack (most recent call last)" in line["error.stack_trace"]
    assert "hunter2" not in json.dumps(line)
    assert line["labels.part"] == 3


@pytest.mark.parametrize(
    ("extra", "label", "text"),
    [
        ({"error": "of mine"}, "labels.error", "of mine"),
        ({"log": 3}, "labels.log", "3"),
        ({"a": 1, "a.b": 2}, "labels.a_b", "2"),
        ({"a": {"b": 1}, "a.b": 2}, "labels.a", '{"b":1}'),
        ({"service": {"name": "other"}}, "labels.service", '{"name":"other"}'),
        ({"http": "of mine"}, "labels.http", "of mine"),
        ({"@timestamp": "never"}, "labels.@timestamp", "never"),
        ({"ecs.version.a": 1}, "labels.ecs_version_a", "1"),
        ({"": "empty"}, "labels._", "empty"),
    ],
)
def test_names_that_contradict_each_other_become_labels(
    logger: logging.Logger, out: io.StringIO, extra: dict[str, object], label: str, text: str
) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("it failed", extra=extra)
    line = the_line(out)
    assert line[label] == text
    assert (line["message"], line["error.message"], line["log.level"]) == ("it failed", "no", "error")
    assert line["service.name"] == "project-x"


@pytest.mark.parametrize(
    "value",
    [Mute(), {Mute(): 1}, object(), {1, "a"}, float("inf"), 10**5000, "x" * 1_000_000],
    ids=["mute", "mute key", "object", "set", "infinity", "huge", "long"],
)
def test_an_extra_that_is_no_json_loses_no_line(logger: logging.Logger, out: io.StringIO, value: object) -> None:
    logger.info("hello", extra={"odd": value})
    assert len(json.dumps(the_line(out))) < 20_000


@pytest.mark.parametrize(
    ("message", "arguments"),
    [("%d of %s", ("x",)), ("%s", (Mute(),)), (Mute(), ()), ({"password": "hunter2"}, ())],
    ids=["too few", "mute argument", "mute", "mapping"],
)
def test_a_message_that_cannot_be_written_loses_no_line(
    logger: logging.Logger, out: io.StringIO, message: object, arguments: tuple[object, ...]
) -> None:
    logger.info(message, *arguments)
    assert "hunter2" not in out.getvalue()
    assert the_line(out)["log.logger"] == "x.y"


def test_an_error_that_cannot_be_written_loses_no_line(logger: logging.Logger, out: io.StringIO) -> None:
    logger.error("it failed", exc_info=OddError())
    line = the_line(out)
    assert line["message"] == "it failed"
    assert line["labels.log_error"] == "RuntimeError: RuntimeError('no')"


def test_a_megabyte_is_shortened(logger: logging.Logger, out: io.StringIO) -> None:
    logger.info("got %s", "x" * 1_000_000)
    assert len(the_line(out)["message"]) < 10_000


NAMES = (
    st.sampled_from(["a", "a.b", "a.b.c", "a.", ".a", ".", "", "error", "error.type", "event", "event.dataset"])
    | st.sampled_from(["http.request.id", "log", "log.level", "labels", "labels.a", "service", "service.name"])
    | st.sampled_from(["@timestamp", "ecs.version", "trace"])
    | st.text(printable).filter(lambda name: name not in _STANDARD)  # logging itself refuses those
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Mute),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.integers(), inner, max_size=3),
    max_leaves=6,
)
ERRORS = st.none() | st.builds(ValueError, VALUES) | st.builds(OddError)


@settings(deadline=None)
@given(st.text() | VALUES, st.lists(VALUES, max_size=2), st.dictionaries(NAMES, VALUES, max_size=4), ERRORS)
def test_whatever_is_logged_is_one_line_of_json_that_contradicts_nothing(
    message: object, arguments: list[object], extra: dict[str, object], error: Exception | None
) -> None:
    record = logging.LogRecord("x.y", logging.ERROR, "f.py", 1, message, tuple(arguments), None)
    if error is not None:
        record.exc_info = (type(error), error, None)
    record.__dict__.update(extra)
    line = EcsFormatter(about=about, service=SERVICE, hidden=frozenset({"data"})).format(record)
    assert line.isascii() and line.isprintable()  # one line, whatever reads it takes for the end of one
    document = json.loads(line, object_pairs_hook=unique, parse_constant=lambda name: pytest.fail(name))
    assert document.keys() >= REQUIRED
    assert (document["log.level"], document["log.logger"]) == ("error", "x.y")
    assert (document["service.name"], document["event.dataset"]) == ("project-x", "fsfc.app")
    assert (document["ecs.version"], document["http.request.id"]) == (ECS_VERSION, "request-1")
    # As Filebeat's `expand_keys` needs it: what has a value has nothing below it. Elasticsearch: no empty name.
    names = {tuple(name.split(".")) for name in document}
    assert not [name for name in names if not all(map(str.strip, name))]
    assert not {name for name in names if any(name[:length] in names for length in range(1, len(name)))}
    assert not [value for value in document.values() if isinstance(value, dict)]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    assert len(document) == len(pairs)
    return document


SHARED = """
import logging, os
from project_contracts import logs

about = lambda record: {"process.pid": os.getpid()}
logs.configure("json", level="INFO", about=about, service={}, console="", shared=True)
for _ in range(3):
    if not os.fork():
        break
for number in range(30):
    logging.error("%d %s", number, "x" * 8000, extra={"labels.more": "y" * 8000})
"""


def test_processes_that_share_a_pipe_do_not_part_each_other_s_lines() -> None:
    with subprocess.Popen([sys.executable, "-c", SHARED], stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        text = b""
        while piece := process.stdout.read(5000):  # slowly: the pipe is full
            text += piece
            time.sleep(0.001)
    documents = [json.loads(line) for line in text.splitlines()]
    for process_id in {document["process.pid"] for document in documents}:
        own = [document for document in documents if document["process.pid"] == process_id]
        assert [int(document["message"].split()[0]) for document in own] == list(range(30))
    assert len(documents) == 4 * 30


LOCKED = """
import fcntl, logging, sys
from project_contracts import logs

locked = []
fcntl.lockf = lambda *of_what: locked.append(of_what)
shared = sys.argv[1] == "shared"
logs.configure("json", level="INFO", about=lambda record: {}, service={}, console="", shared=shared)
logging.info("hello")
print(len(locked))
"""


@pytest.mark.parametrize(("whose", "calls"), [("shared", "2"), ("its own", "0")])
def test_only_a_shared_pipe_is_locked(whose: str, calls: str) -> None:
    said = subprocess.run([sys.executable, "-c", LOCKED, whose], stdout=subprocess.PIPE, text=True, check=True)
    line, locked = said.stdout.splitlines()
    assert (json.loads(line)["message"], locked) == ("hello", calls)


class Told:
    """An `Event`."""

    def __str__(self) -> str:
        return "password: told"

    def fields(self) -> logs.Fields:
        return {logs.DATASET: logs.ACCESS, "a.b": [1]}

    def json(self) -> str:
        return '"message":"password: told","event.dataset":"fsfc.access","a.b":[1]'


@pytest.mark.parametrize("extra", [None, {"labels.more": "x"}])
def test_an_event_says_itself_what_it_is_about(extra: dict[str, object] | None) -> None:
    formatter = EcsFormatter(about=lambda record: {logs.REQUEST_ID: "request-1"}, service=SERVICE, events=(Told,))
    record = logging.LogRecord("x.y", logging.INFO, "f.py", 1, Told(), (), None)
    record.__dict__.update(extra or {})
    line = json.loads(formatter.format(record), object_pairs_hook=unique)
    assert line.keys() - {"labels.more"} == REQUIRED | {"a.b", "http.request.id"}
    assert (line["message"], line["event.dataset"], line["a.b"]) == ("password: told", "fsfc.access", [1])


class InterruptError(Exception):
    """What a signal's handler raises."""


def interrupt(*_: object) -> Any:
    raise InterruptError


class Interrupted:
    def __str__(self) -> str:
        return str(interrupt())


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("form", ["json", "console"])
def test_what_a_signal_raises_goes_on(form: logs.LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(
        form, level="INFO", about=about, service=SERVICE, console="%(message)s", passed_on=(InterruptError,)
    )
    with pytest.raises(InterruptError):
        logging.info(Interrupted())
    with pytest.raises(InterruptError):
        logging.info("%s", Interrupted(), extra={"labels.more": "x"})
    logging.info("alive")
    assert "alive" in capsys.readouterr().out


def test_what_a_signal_raises_goes_on_also_when_the_line_is_saved() -> None:
    formatter = EcsFormatter(about=interrupt, service=SERVICE, passed_on=(InterruptError,))
    with pytest.raises(InterruptError):
        formatter.format(logging.LogRecord("x.y", logging.INFO, "f.py", 1, "%d", ("x",), None))


@pytest.mark.usefixtures("configured")
def test_a_recursion_without_end_is_raised_as_logging_does(monkeypatch: pytest.MonkeyPatch) -> None:
    configure("console")

    def recur(record: logging.LogRecord) -> str:
        return recur(record)

    monkeypatch.setattr(logging.getLogger().handlers[-1], "format", recur)
    with pytest.raises(RecursionError):
        logging.info("hello")


def test_what_records_have_today_is_no_extra() -> None:
    record = logging.LogRecord("x", 20, "f", 1, "m", (), None)
    assert record.__dict__.keys() <= _STANDARD


@pytest.fixture
def configured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("logThreads", "logProcesses", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def configure(form: logs.LogFormat) -> None:
    logs.configure(
        form, level="INFO", about=about, service=SERVICE, console="%(levelname)s [%(request_id)s] %(message)s"
    )


@pytest.mark.usefixtures("configured")
def test_the_console_is_readable_and_keeps_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    configure("console")
    try:
        raise ValueError("redis://:hunter2@host")
    except ValueError:
        logging.getLogger("a.b").exception("password=hunter2 %s", "x" * 1_000_000)
    said = capsys.readouterr().out
    assert said.startswith("ERROR [request-1] password=** xxx")
    assert said.endswith("ValueError: redis://:**@host\n")
    assert len(said) < 20_000
    assert "hunter2" not in said


@pytest.mark.usefixtures("configured")
def test_loggers_of_others_write_the_same_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.error").debug("too much")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    said = [json.loads(line)["log.logger"] for line in capsys.readouterr().out.splitlines()]
    assert said == ["uvicorn.error", "py.warnings"]


@pytest.mark.parametrize(
    ("chosen", "environment", "form"),
    [
        (None, "development", "console"),
        (None, "production", "json"),
        ("json", "development", "json"),
        ("console", "production", "console"),
    ],
)
def test_the_format_that_is_in_force(
    chosen: logs.LogFormat | None, environment: logs.Environment, form: logs.LogFormat
) -> None:
    assert logs.log_format(chosen, environment) == form
