"""The command line: help, wrong names, exit codes, no tracebacks."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def stack(state: Path, *words: str, stdin: int = subprocess.DEVNULL) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], "STACK_ROOT": str(ROOT), "STACK_STATE": str(state), "PYTHONPATH": "."}
    return subprocess.run(
        [sys.executable, "-m", "stack", *words],
        cwd=ROOT / "ops",
        env=environ,
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    done = stack(tmp_path, "--help")
    assert done.returncode == 0
    for command in (
        "up",
        "down",
        "status",
        "stop",
        "start",
        "restart",
        "scale",
        "logs",
        "dead-letters",
        "urls",
        "test",
        "bench",
        "lock",
        "doctor",
        "reset",
    ):
        assert re.search(rf"^\W+{command}\s", done.stdout, re.MULTILINE), command


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["up", "nope"], 2, "services: postgres, redis"),
        (["stop", "nope"], 2, "services: postgres, redis"),
        (["logs", "nope"], 2, "services: postgres, redis"),
        (["up", "--profile", "nope"], 2, "profiles: core, monitoring, logging, admin"),
        (["up", "grafana"], 3, "grafana.com/grafana/download"),
        (["test", "nope"], 2, "suites: lint, types, imports, contracts"),
        (["bench", "nope"], 2, "rows: enqueue, round-trip"),
        (["stop"], 2, "Missing argument"),
        (["nope"], 2, "No such command"),
        (["logs", "--request", ""], 2, "--request ID"),
        (["logs", "--task", "nope"], 1, "carries task nope"),
        (["stop", "redis"], 1, "the stack is down"),
        (["dead-letters"], 1, "the stack is down"),
        (["dead-letters", "delete", "--all"], 1, "to start it: ./stack up"),
        (["dead-letters", "show"], 2, "Missing argument"),
        (["dead-letters", "delete"], 2, "--all"),
        (["dead-letters", "nope"], 2, "No such command"),
        (["restart"], 1, "to start it: ./stack up"),
        (["restart", "redis"], 1, "to start it: ./stack up"),
        (["reset"], 2, "./stack reset --yes"),
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
    doctor = stack(state, "doctor")
    assert re.search(r"^ok +supervisor +the stack is down$", doctor.stdout, re.MULTILINE)
    assert re.search(rf"^ok +state folder +{state} will be made in {tmp_path}$", doctor.stdout, re.MULTILINE)
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


def test_reset_deletes_what_stack_makes_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    state = tmp_path / "state"
    for made in (
        "venvs/ops/bin",
        "bootstrap/bin",
        "cache/ruff",
        "logs",
        "test-abc/run",
        "test-mine",
        "bench",
        "bench-abc/run",
    ):
        (state / made).mkdir(parents=True)
    (state / "test-abc/run/lock").touch()
    (state / "bench-abc/run/lock").touch()
    (state / "env").write_text("broken '\n")
    (state / "data").symlink_to(outside)
    (state / "mine").touch()
    done = stack(state, "reset", "--yes")
    assert done.returncode == 0, done.stderr
    assert (outside / "precious").exists()
    assert sorted(place.name for place in state.iterdir()) == ["mine", "test-mine"]
    for name in ("venvs", "bootstrap", "cache", "logs", "env", "data", "test-abc", "bench", "bench-abc", "run"):
        assert f"deleted {state / name}\n" in done.stdout
    assert f"deleted {state}\n" not in done.stdout


def test_reset_deletes_an_empty_state_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert f"deleted {state}\n" in stack(state, "reset", "--yes").stdout
    assert not state.exists()


@pytest.mark.parametrize(("answer", "is_deleted"), [("n\n", False), ("\n", False), ("y\n", True)])
def test_reset_asks_on_a_terminal(tmp_path: Path, answer: str, is_deleted: bool) -> None:
    state = tmp_path / "state"
    (state / "data").mkdir(parents=True)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        done = stack(state, "reset", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert str(state) in done.stdout
    assert (done.returncode, state.exists()) == ((0, False) if is_deleted else (1, True))
