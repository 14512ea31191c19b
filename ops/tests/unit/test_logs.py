"""Following a log file: whole lines, each once, through turn-overs. Finding what carries an id."""

import io
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from stack import logs, services
from stack.errors import StackError, UsageError
from stack.instance import Instance
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


def test_following_takes_a_wanted_line_and_its_traceback() -> None:
    wanting = Wanting(Wanted(request=REQUEST, task=None))
    lines = ("a banner", SENT, OTHER, FAILED, *TRACE, OTHER, "after")
    assert [line for line in lines if wanting.takes(line)] == [SENT, FAILED, *TRACE]
