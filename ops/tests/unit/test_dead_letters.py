"""Dead letters on the command line: what is printed, for answers as the API gives them."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stack import dead_letters
from stack.instance import Instance

ID = "00000000-0000-4000-8000-000000000000"
LETTER: dict[str, Any] = {
    "id": ID,
    "task_id": ID,
    "name": "project-worker.[odd]",
    "queue": "project-worker",
    "reason": "rejected",
    "error": {"type": "WorkerLost", "message": "its worker died 5 times", "code": None},
    "died_at": "2026-05-04T13:07:09.123Z",
    "attempts": 5,
    "arguments": "()",
    "keyword_arguments": "{'x': '[1]'}",
    "content_type": None,
    "size": 81,
}


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(repository=tmp_path, state=tmp_path, values={"API_PORT": "5000"})


class Api:
    """Stands for the API: answers everything with one document, remembers what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
        self.asked: list[tuple[str, str]] = []

        def ask(_instance: Instance, method: str, path: str) -> Any:
            self.asked.append((method, path))
            return answer

        monkeypatch.setattr(dead_letters, "_ask", ask)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_list_has_a_line_for_each(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, console: Console
) -> None:
    api = Api(monkeypatch, {"dead_letters": [LETTER, LETTER | {"name": None}], "more": False})
    dead_letters.show_all(instance, console)
    assert [line.split() for line in printed(console).splitlines()] == [
        ["ID", "DIED", "TASK", "ERROR", "REASON"],
        [ID, "2026-05-04", "13:07:09Z", "project-worker.[odd]", "WorkerLost", "rejected"],
        [ID, "2026-05-04", "13:07:09Z", "-", "WorkerLost", "rejected"],
    ]
    assert api.asked == [("GET", "?limit=100")]


def test_a_narrow_terminal_cuts_nothing(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    Api(monkeypatch, {"dead_letters": [LETTER], "more": True})
    console = Console(file=io.StringIO(), width=60)
    dead_letters.show_all(instance, console)
    assert f"{ID}  2026-05-04 13:07:09Z  project-worker.[odd]  WorkerLost  rejected\n" in printed(console)
    assert "there are others" in printed(console)


def test_none_is_said(monkeypatch: pytest.MonkeyPatch, instance: Instance, console: Console) -> None:
    Api(monkeypatch, {"dead_letters": [], "more": False})
    dead_letters.show_all(instance, console)
    assert printed(console) == "There are no dead letters.\n"


def test_one_is_shown_in_full(monkeypatch: pytest.MonkeyPatch, instance: Instance, console: Console) -> None:
    Api(monkeypatch, LETTER)
    dead_letters.show(instance, ID, console)
    lines = dict(line.split("  ", 1) for line in printed(console).splitlines())
    texts = {title.strip(): text.strip() for title, text in lines.items()}
    assert texts["error"] == "WorkerLost: its worker died 5 times"
    assert texts["keyword arguments"] == "{'x': '[1]'}"
    assert texts["body"] == "81 bytes of unknown type"


def test_what_is_asked_of_the_api(monkeypatch: pytest.MonkeyPatch, instance: Instance, console: Console) -> None:
    api = Api(monkeypatch, {"id": ID, "status": "QUEUED", "deleted": 3})
    dead_letters.replay(instance, ID, console)
    dead_letters.delete(instance, "a/../b?c", console)
    dead_letters.delete_all(instance, console)
    assert api.asked == [
        ("POST", f"/{ID}/replay"), ("DELETE", "/a%2F..%2Fb%3Fc"), ("DELETE", "?confirm=all")
    ]  # fmt: skip
    assert f"to follow it: http://127.0.0.1:5000/v1/tasks/{ID}\n" in printed(console)
    assert "deleted a/../b?c\ndeleted 3 dead letters\n" in printed(console)
