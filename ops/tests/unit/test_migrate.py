"""Bringing the schema up to date, with a stand-in for Python: what fails is told, and Ctrl-C ends it."""

import threading
import time
from pathlib import Path

import pytest

from stack.errors import GivenUpError, StackError
from stack.instance import Instance
from stack.servers.projects import migrate


def instance_whose_python(does: str, folder: Path) -> Instance:
    instance = Instance(repository=folder, state=folder / "state", values={"POSTGRES_DB": "mine"})
    python = instance.venv("project-api") / "bin" / "python"
    for needed in (python.parent, instance.log("migrations").parent):
        needed.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o755)
    return instance


def test_it_runs_alembic_on_the_instances_database(tmp_path: Path) -> None:
    instance = instance_whose_python('echo "$POSTGRES_DB: $*"', tmp_path)
    migrate(instance, threading.Event())
    said = instance.log("migrations").read_text()
    assert said == f"mine: -m alembic -c {tmp_path}/project-api/alembic.ini upgrade head\n"


def test_a_migration_that_fails_is_told_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="schema up to date failed") as caught:
        migrate(instance_whose_python("echo relation exists; exit 1", tmp_path), threading.Event())
    assert "relation exists" in caught.value.hint


def test_who_gives_up_does_not_wait_for_its_end(tmp_path: Path) -> None:
    instance, cancelled = instance_whose_python("exec sleep 60", tmp_path), threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(GivenUpError):
        migrate(instance, cancelled)
    assert time.monotonic() - started < 30
