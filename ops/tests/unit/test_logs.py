"""Following a log file: whole lines, each once, through turn-overs."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stack.logs import _Followed
from stack.processes import tail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def followed(path: Path, request: pytest.FixtureRequest) -> Iterator[_Followed]:
    if content := getattr(request, "param", None):
        path.write_text(content)
    with closing(_Followed(path)) as log:
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
