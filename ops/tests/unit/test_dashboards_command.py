"""`./stack dashboards`: what is run, in which environment, and what is refused."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from stack import dashboards, environments, processes
from stack.cli import write_dashboards
from stack.errors import StackError, UsageError
from stack.instance import Instance

ROOT = Path(__file__).parents[3]


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(repository=ROOT, state=tmp_path / "state", values={"PROMETHEUS_PORT": "9090"})


def test_writing_runs_the_program_in_its_own_environment(
    monkeypatch: pytest.MonkeyPatch, instance: Instance
) -> None:
    made: list[str] = []
    ran: list[list[str]] = []
    monkeypatch.setattr(environments, "make", lambda environment, *_: made.append(environment.name))
    monkeypatch.setattr(processes, "run", lambda command, **_: ran.append(command))
    console = Console(file=io.StringIO(), width=200)
    dashboards.write(instance, console)
    assert made == ["dashboards"]
    python = instance.venv("dashboards") / "bin" / "python"
    assert ran == [[str(python), "-m", "dashboards", "write", str(ROOT / dashboards.JSON_FOLDER)]]
    assert isinstance(console.file, io.StringIO)
    assert "journey.json" in console.file.getvalue()


def test_nothing_is_drawn_while_the_stack_is_down(instance: Instance, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="down"):
        dashboards.draw(instance, tmp_path / "pictures", minutes=5, console=Console(file=io.StringIO()))
    assert not (tmp_path / "pictures").exists()


def test_a_folder_without_pictures_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STACK_ROOT", str(ROOT))
    monkeypatch.setenv("STACK_STATE", str(tmp_path))
    with pytest.raises(UsageError, match="for pictures"):
        write_dashboards(folder=tmp_path, png=False)
