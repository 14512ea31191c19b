"""The command line: help, wrong names, exit codes, no tracebacks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def stack(state: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], "STACK_ROOT": str(ROOT), "STACK_STATE": str(state), "PYTHONPATH": "."}
    return subprocess.run(
        [sys.executable, "-m", "stack", *words],
        cwd=ROOT / "ops",
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    done = stack(tmp_path, "--help")
    assert done.returncode == 0
    for command in ("up", "down", "status", "stop", "start", "logs", "urls", "test", "lock"):
        assert re.search(rf"^\W+{command}\s", done.stdout, re.MULTILINE), command


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["up", "nope"], 2, "services: postgres, redis"),
        (["stop", "nope"], 2, "services: postgres, redis"),
        (["logs", "nope"], 2, "services: postgres, redis"),
        (["test", "nope"], 2, "suites: lint, types, imports, contracts"),
        (["stop"], 2, "Missing argument"),
        (["nope"], 2, "No such command"),
        (["stop", "redis"], 1, "the stack is down"),
        (["start", "redis"], 1, "./stack up redis"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    done = stack(tmp_path, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_looking_at_a_stack_that_never_was_up_works_and_makes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    status = stack(state, "status")
    assert status.returncode == 0
    assert "The stack is down" in status.stdout
    urls = stack(state, "urls")
    assert "http://127.0.0.1:5000/docs" in urls.stdout
    assert "http://127.0.0.1:15672" in urls.stdout
    assert stack(state, "logs").returncode == 0
    assert not state.exists()


def test_down_twice_is_no_error(tmp_path: Path) -> None:
    assert "was down already" in stack(tmp_path, "down").stdout
    assert stack(tmp_path, "down").returncode == 0


def test_down_volumes_deletes_nothing_outside_and_keeps_environments(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    state = tmp_path / "state"
    (state / "venvs").mkdir(parents=True)
    (state / "env").write_text("A=1\n")
    (state / "config").mkdir()
    (state / "config" / "redis").symlink_to(outside)
    (state / "data").symlink_to(outside)
    done = stack(state, "down", "--volumes")
    assert done.returncode == 0, done.stderr
    assert (outside / "precious").exists()
    assert sorted(place.name for place in state.iterdir()) == ["cache", "venvs"]
