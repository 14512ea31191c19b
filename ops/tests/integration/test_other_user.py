"""A user who is not root: the whole bootstrap, the servers as that user, and what that user cannot do.

How it works: root runs `./stack` as the account `nobody`, with the system's Python and a PATH of links that
leaves things out. uv is not on it, so the bootstrap installs it with pip.
"""

import grp
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import NETWORK, ROOT, SERVERS, Stack

PYTHON = "/usr/bin/python3"
BECOME = ["/usr/bin/setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]


def nobody_can(*command: str) -> bool:
    return subprocess.run([*BECOME, *command], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else"),
    pytest.mark.skipif(
        not nobody_can("test", "-r", str(ROOT / "stack")), reason="this clone is in a private folder"
    ),
    pytest.mark.skipif(
        not nobody_can(PYTHON, "-c", "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"),
        reason="needs the packages python3 (3.11 or newer) and python3-venv",
    ),
]


class Nobody(Stack):
    """A stack of the account `nobody`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "state")
        self.bin = folder / "bin"
        self.bin.mkdir()
        for place in ("/usr/sbin", "/usr/bin"):
            for program in Path(place).iterdir():
                if program.name != "uv" and not (self.bin / program.name).is_symlink():
                    (self.bin / program.name).symlink_to(program)
        self.environ = {**NETWORK, **self.ports, "PATH": str(self.bin), "HOME": str(folder)}
        self.environ |= {"STACK_STATE": str(self.state), "STACK_PYTHON": PYTHON}

    def begin(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*BECOME, str(ROOT / "stack"), *words],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def nobody() -> Iterator[Nobody]:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other accounts
        os.chown(name, *_ids())
        made = Nobody(Path(name))
        try:
            yield made
        finally:
            if made.state.exists():  # the last test resets it
                made.run("down", "--volumes")
        assert made.processes() == []


def _ids() -> tuple[int, int]:
    return pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid


def test_the_servers_run_as_that_user(nobody: Nobody) -> None:
    said = nobody.run("up", *SERVERS)
    assert "rabbitmq         ready" in said
    assert {process.username() for process in nobody.processes()} == {"nobody"}
    nobody.run("down")
    assert nobody.processes() == []


def test_doctor_restart_and_logs_work_for_that_user(nobody: Nobody) -> None:
    nobody.run("up", "redis", "postgres")
    said = nobody.run("doctor")
    assert re.search(r"^ok +accounts +everything runs as you$", said, re.MULTILINE), said
    assert re.search(r"^ok +redis login +logged in", said, re.MULTILINE), said
    assert re.search(r"^ok +REDIS_PORT .* in use by this stack$", said, re.MULTILINE), said
    before = nobody.process("redis-server").pid
    assert "redis            ready" in nobody.run("restart", "redis")
    assert nobody.process("redis-server").pid != before
    assert "redis" in nobody.run("logs", "redis")
    (nobody.state / "logs/project-api.log").write_text("2026-11-22 09:00:00,000 INFO    app [ID] said\n")
    assert nobody.run("logs", "--request", "ID").endswith("INFO    app [ID] said\n")
    nobody.run("down")


def test_a_missing_package_is_named_with_the_line_that_installs_it(nobody: Nobody) -> None:
    (nobody.bin / "redis-server").unlink()
    try:
        said = nobody.run("up", *SERVERS, code=3)
        examined = nobody.run("doctor", code=3)
    finally:
        (nobody.bin / "redis-server").symlink_to("/usr/bin/redis-server")
    assert "these packages are missing: redis-server" in said
    assert "sudo apt-get install -y --no-install-recommends redis-server" in said
    assert re.search(r"^problem +redis-server +is not installed", examined, re.MULTILINE), examined
    assert "apt-get install -y --no-install-recommends redis-server" in examined
    assert nobody.processes() == []


def test_a_data_folder_of_somebody_else_is_said(nobody: Nobody) -> None:
    data = nobody.state / "data"
    data.mkdir(exist_ok=True)
    os.chown(data, 0, 0)
    try:
        said = nobody.run("up", "redis", code=3)
        examined = nobody.run("doctor", code=3)
    finally:
        os.chown(data, *_ids())
    assert re.search(
        rf"^problem +state folder +cannot write to {data}: it belongs to root", examined, re.MULTILINE
    )
    assert f"cannot write to {data}: {data} belongs to root" in said
    assert "STACK_STATE" in said


def test_a_state_folder_of_somebody_else_is_said(nobody: Nobody, tmp_path: Path) -> None:
    nobody.environ["STACK_STATE"] = str(tmp_path / "closed")
    try:
        assert "cannot write to" in nobody.run("up", code=3)
    finally:
        nobody.environ["STACK_STATE"] = str(nobody.state)


@pytest.mark.parametrize("python", ["/nonexistent/python3", "/bin/false"])
def test_a_python_that_does_not_run_is_said(nobody: Nobody, python: str) -> None:
    nobody.environ["STACK_PYTHON"] = python
    try:
        assert "Python 3.11 or newer is needed" in nobody.run("status", code=3)
    finally:
        nobody.environ["STACK_PYTHON"] = PYTHON


def test_an_old_python_is_named_with_its_version(nobody: Nobody) -> None:
    old = nobody.bin.parent / "python-old"
    old.write_text('#!/bin/sh\ncase "$*" in *_info\\[:3\\]*) echo 3.10.4 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    nobody.environ["STACK_PYTHON"] = str(old)
    try:
        assert "is 3.10.4" in nobody.run("status", code=3)
    finally:
        nobody.environ["STACK_PYTHON"] = PYTHON


def test_reset_gives_the_fresh_clone_back(nobody: Nobody) -> None:
    """Last: the tool deletes the environment that it runs from, and makes it again when asked."""
    nobody.run("up", "redis")
    assert "./stack reset --yes" in nobody.run("reset", code=2)
    said = nobody.run("reset", "--yes")
    assert f"deleted {nobody.state / 'data'}\n" in said
    assert f"deleted {nobody.state / 'venvs'}\n" in said
    assert not nobody.state.exists()
    assert nobody.processes() == []
