"""Following a log file: whole lines, each once, through turn-overs. Finding what carries an id."""

import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console
from rich.text import Text

from stack import logs, records, services
from stack.errors import StackError, UsageError
from stack.instance import Instance
from stack.log_lines import Printer
from stack.logs import _Followed
from stack.processes import tail
from stack.records import Wanted, Wanting


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def followed(path: Path, request: pytest.FixtureRequest) -> Iterator[_Followed]:
    if content := getattr(request, "param", None):
        path.write_text(content)
    with closing(_Followed(path, os.SEEK_END)) as log:
        yield log


@pytest.mark.parametrize("followed", ["old\n"], indirect=True)
def test_only_new_whole_lines_are_shown(followed: _Followed, path: Path) -> None:
    assert list(followed.new_lines()) == []
    with path.open("a") as file:
        file.write("one\ntw")
        file.flush()
        assert list(followed.new_lines()) == ["one"]
        file.write("o\n")
    assert list(followed.new_lines()) == ["two"]


def test_a_file_that_comes_later_is_shown_from_its_beginning(followed: _Followed, path: Path) -> None:
    assert list(followed.new_lines()) == []
    path.write_text("first\n")
    assert list(followed.new_lines()) == ["first"]


@pytest.mark.parametrize("followed", ["a\n"], indirect=True)
def test_a_turned_over_file_is_followed(followed: _Followed, path: Path) -> None:
    with path.open("a") as file:
        file.write("last of the old\n")
    path.rename(path.with_name("log.1"))
    path.write_text("first of the new\n")
    seen = [*followed.new_lines(), *followed.new_lines()]
    assert seen == ["last of the old", "first of the new"]


def test_the_tail_is_the_last_lines(path: Path) -> None:
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(20_000)) + b"\xff broken")
    assert tail(path, 2) == ["line 19999", "\ufffd broken"]
    assert tail(path, 0) == []
    assert tail(path.with_name("none"), 5) == []


REQUEST, TASK = "20875257cb5a4a13bddec5dd73272346", "db62ce71-6b02-8b35-aec8-78b61ab8f79c"
SENT = f"2026-11-22 09:18:19,390 INFO    app.access [{REQUEST}] POST /v1/tasks 202 8.1 ms"
FAILED = f"2026-11-22 09:18:19,398 ERROR   ForkPoolWorker-2 celery.app.trace [{REQUEST}] Task name[{TASK}] raised"
TRACE = ("Traceback (most recent call last):", '  File "x.py", line 1', "", "ValueError: no")
ASKED = f"2026-11-22 09:18:20,001 INFO    app.access [another] GET /v1/tasks/{TASK} 200 1.0 ms"
LONGER = f"2026-11-22 09:18:20,002 INFO    app.access [{REQUEST}0] GET /v1/tasks/{TASK}0 404 1.0 ms"
OTHER = "2026-11-22 09:18:19,399 INFO    app.access [-] nothing"


class TestFind:
    """Lines of one request or task, from all services and all of their files."""

    @pytest.fixture
    def instance(self, tmp_path: Path) -> Instance:
        (tmp_path / "logs").mkdir()
        return Instance(repository=tmp_path, state=tmp_path, values={})

    def write(self, path: Path, *lines: str) -> None:
        path.write_text("".join(f"{line}\n" for line in lines))

    def find(
        self, instance: Instance, *names: str, request: str | None = None, task: str | None = None
    ) -> list[str]:
        console = Console(file=io.StringIO(), width=40)
        chosen = services.by_name(names) if names else list(services.SERVICES)
        logs.find(instance, chosen, Wanted(request=request, task=task), follow=False, console=console)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().splitlines()

    def test_one_requests_lines_come_by_time_with_their_tracebacks(self, instance: Instance) -> None:
        self.write(instance.log("project-worker"), "a banner", OTHER, FAILED, *TRACE, OTHER)
        self.write(instance.log("project-api"), OTHER, SENT, ASKED, LONGER)
        said = self.find(instance, request=REQUEST)
        assert [line.split(" | ", 1) for line in said] == [
            [f"{'project-api':<21}", SENT],
            *([f"{'project-worker':<21}", line] for line in (FAILED, *TRACE)),
        ]

    def test_a_task_is_found_in_the_workers_lines_and_in_paths(self, instance: Instance) -> None:
        self.write(instance.log("project-worker"), FAILED, *TRACE)
        self.write(instance.log("project-api"), SENT, ASKED, LONGER)
        assert [line.split(" | ", 1)[1] for line in self.find(instance, task=TASK)] == [FAILED, *TRACE, ASKED]
        assert [line.split(" | ", 1)[1] for line in self.find(instance, "project-api", task=TASK)] == [ASKED]
        both = self.find(instance, request=REQUEST, task=TASK)
        assert [line.split(" | ", 1)[1] for line in both] == [FAILED, *TRACE]

    def test_whole_files_are_read_and_turned_over_ones(self, instance: Instance) -> None:
        log = instance.log("project-api")
        self.write(log.with_name("project-api.log.2"), SENT.replace("09:18:19", "09:18:17"))
        self.write(log.with_name("project-api.log.1"), SENT.replace("09:18:19", "09:18:18"), *[OTHER] * 50_000)
        self.write(log, *TRACE, SENT, *[OTHER] * 50_000)
        times = [line.split()[3] for line in self.find(instance, request=REQUEST)]
        assert times == ["09:18:17,390", "09:18:18,390", "09:18:19,390"]

    def test_a_traceback_that_a_turn_over_parted_is_whole(self, instance: Instance) -> None:
        log = instance.log("project-worker")
        self.write(log.with_name("project-worker.log.1"), FAILED, *TRACE[:2])
        self.write(log, *TRACE[2:], OTHER)
        assert [line.split(" | ", 1)[1] for line in self.find(instance, task=TASK)] == [FAILED, *TRACE]

    def test_a_line_that_a_turn_over_parted_is_whole(self, instance: Instance) -> None:
        log = instance.log("project-api")
        half = SENT.index(REQUEST) + 5
        log.with_name("project-api.log.2").write_text(f"{OTHER}\n{SENT[:half]}")
        log.with_name("project-api.log.1").write_text(f"{SENT[half:]}\n{SENT[:10]}")
        log.write_text(f"{SENT[10:]}\n")
        assert [line.split(" | ", 1)[1] for line in self.find(instance, request=REQUEST)] == [SENT, SENT]

    def test_lines_without_times_stand_for_themselves(self, instance: Instance) -> None:
        self.write(instance.log("redis"), "1:M 22 Nov 2026 ready", f"1:M about {TASK}", "1:M done")
        assert self.find(instance, task=TASK) == [f"{'redis':<21} | 1:M about {TASK}"]

    def test_nothing_found_is_said_with_where_ids_come_from(self, instance: Instance) -> None:
        self.write(instance.log("project-api"), OTHER)
        with pytest.raises(StackError, match="no line of redis, project-api carries request nope") as caught:
            self.find(instance, "project-api", "redis", request="nope")
        assert caught.value.exit_code == 1
        assert "X-Request-ID" in caught.value.hint

    def test_an_empty_id_is_refused(self) -> None:
        with pytest.raises(UsageError):
            Wanted(request="", task=None)

    def test_an_id_is_no_pattern(self, instance: Instance) -> None:
        self.write(instance.log("project-api"), SENT)
        with pytest.raises(StackError):
            self.find(instance, request="." * len(REQUEST))


DOCUMENT = '{"@timestamp":"2026-11-22T09:18:19.%dZ","log.level":"info","message":"%s","http.request.id":"%s"}'


class TestDocuments:
    """With LOG_FORMAT=json."""

    @pytest.fixture(autouse=True)
    def elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("TZ", "XXX-2")  # two hours east
        time.tzset()
        yield
        monkeypatch.undo()
        time.tzset()

    def test_times_compare_with_other_programs(self) -> None:
        lines = [
            DOCUMENT % (390, "sent", REQUEST),
            DOCUMENT % (398, "done", "-"),
            "2026-11-22 11:18:19.395 UTC ready",
        ]
        assert [record.time for record in records.split("any", lines)] == [
            "2026-11-22 11:18:19.390",
            "2026-11-22 11:18:19.398",
            "2026-11-22 11:18:19.395",
        ]

    def test_a_request_and_a_task_are_found(self) -> None:
        sent = DOCUMENT % (390, f"GET /v1/tasks/{TASK} 200 1.0 ms", REQUEST)
        other = DOCUMENT % (391, f"GET /v1/tasks/{TASK}0 404 1.0 ms", f"{REQUEST}0")
        assert Wanted(request=REQUEST, task=TASK).is_in([sent])
        assert not Wanted(request=REQUEST, task=None).is_in([other])
        assert not Wanted(request=None, task=TASK).is_in([other])

    def test_following_takes_documents(self) -> None:
        wanting = Wanting(Wanted(request=REQUEST, task=None))
        lines = (DOCUMENT % (390, "sent", REQUEST), "worker: Warm shutdown", DOCUMENT % (391, "other", "-"))
        assert [line for line in lines if wanting.takes(line)] == [lines[0]]

    def test_a_document_is_a_record_of_its_own(self) -> None:
        lines = [DOCUMENT % (390, "sent", REQUEST), "worker: Warm shutdown"]
        assert [record.lines for record in records.split("any", lines)] == [(lines[0],), (lines[1],)]


FAILED_DOCUMENT = json.dumps(
    {
        "@timestamp": "2026-11-22T09:18:19.398Z",
        "log.level": "error",
        "message": "Task raised:\nso",
        "log.logger": "celery.app.trace",
        "process.name": "ForkPoolWorker-2",
        "http.request.id": REQUEST,
        "error.stack_trace": "\n".join(TRACE),
    },
    separators=(",", ":"),
)


class TestPrinter:
    """A terminal is for people, anything else for programs."""

    def printed(self, *lines: str, terminal: bool) -> list[str]:
        colours: Literal["standard"] | None = "standard" if terminal else None
        console = Console(file=io.StringIO(), width=40, force_terminal=terminal, color_system=colours)
        for line in lines:
            Printer(["project-worker"], console).show("project-worker", line)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().splitlines()

    def test_a_terminal_shows_a_document_as_the_console_format_has_it(self) -> None:
        said = [Text.from_ansi(line).plain for line in self.printed(FAILED_DOCUMENT, terminal=True)]
        time, *words = said[0].removeprefix("project-worker | ").split(" ERROR   ")
        assert time == records.time_of(FAILED_DOCUMENT)
        assert words == [f"ForkPoolWorker-2 celery.app.trace [{REQUEST}] Task raised:"]
        assert said[1:] == [f"project-worker | {line}" for line in ("so", *TRACE)]

    def test_a_file_gets_the_document(self) -> None:
        assert self.printed(FAILED_DOCUMENT, terminal=False) == [f"project-worker | {FAILED_DOCUMENT}"]

    @pytest.mark.parametrize("line", [FAILED_DOCUMENT[:60], '{"@timestamp":"never"}', '{"a":1}', "1:M ready [x]"])
    def test_any_other_line_is_shown_as_it_is(self, line: str) -> None:
        [said] = self.printed(line, terminal=True)
        assert Text.from_ansi(said).plain == f"project-worker | {line}"

    def test_an_error_is_red_and_a_warning_yellow(self) -> None:
        warning = FAILED.replace("ERROR  ", "WARNING")
        for lines, colour in (((FAILED, FAILED_DOCUMENT), "\x1b[31m"), ((warning,), "\x1b[33m"), ((SENT,), None)):
            for line in lines:
                first = self.printed(line, terminal=True)[0].split(" | ", 1)[1]
                assert (colour in first) if colour else ("\x1b[3" not in first)


def test_following_takes_a_wanted_line_and_its_traceback() -> None:
    wanting = Wanting(Wanted(request=REQUEST, task=None))
    lines = ("a banner", SENT, OTHER, FAILED, *TRACE, OTHER, "after")
    assert [line for line in lines if wanting.takes(line)] == [SENT, FAILED, *TRACE]
