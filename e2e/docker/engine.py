"""A Docker engine for the tests: the one that answers, or one of their own where there is none.

How it works: where nothing answers, root on Debian or Ubuntu gets Debian's docker.io, without its services being
started, and a dockerd is run with all of its folders, its pid file and its socket in the cache folder. Its images
stay there for the next run; the process ends with the tests.

What belongs here: the engine and its client. What is built and run with it is in the modules beside.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("docker.io", "iptables", "mmdebstrap", "debian-archive-keyring")
"""The engine with its client, what it needs for networks, and what makes base images (the last, on Ubuntu)."""

_POLICY = Path("/usr/sbin/policy-rc.d")
_STARTED_WITHIN = 60  # s; 1 was seen


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine that answers at `host` (a DOCKER_HOST), and the client that can build with it."""

    host: str
    client: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a client must be told."""
        return {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}

    def run(self, *words: str, timeout: float = 120) -> str:
        """Run `docker …`, which must succeed, and return what it said on standard output."""
        done = subprocess.run(
            [self.client, *words],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def has(self, image: str) -> bool:
        """Whether an image is there."""
        return bool(self.run("image", "ls", "--quiet", image))


@contextmanager
def running(cache: Path) -> Iterator[Engine]:
    """Find an engine, or start one whose data lies in the cache folder and which ends with the block."""
    install()
    client = _builder()
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if _answers(client, host):
        yield Engine(host=host, client=client)
        return
    folder = cache / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    host = f"unix://{folder / 'docker.sock'}"
    with (folder / "dockerd.log").open("w") as log:
        daemon = subprocess.Popen(
            [
                "dockerd",
                f"--data-root={folder / 'data'}",
                f"--exec-root={folder / 'exec'}",
                f"--pidfile={folder / 'dockerd.pid'}",
                f"--host={host}",
                "--bridge=none",  # Compose makes its own networks, and builds are on the host's
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the tests, which end the containers first
        )
    try:
        deadline = time.monotonic() + _STARTED_WITHIN
        while not _answers(client, host):
            assert daemon.poll() is None, (folder / "dockerd.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "dockerd.log").read_text()[-2000:]
            time.sleep(0.2)
        yield Engine(host=host, client=client)
    finally:
        daemon.terminate()
        daemon.wait(60)


def install() -> None:
    """Install what is missing of the packages; nothing of it is started, now or when the machine starts."""
    if all(shutil.which(program) for program in ("dockerd", "docker", "mmdebstrap")):
        return
    assert os.geteuid() == 0, f"run: sudo apt-get install -y --no-install-recommends {' '.join(PACKAGES)}"
    with _nothing_starts():
        _apt(["update"])
        _apt(["install", "-y", "--no-install-recommends", *PACKAGES])
    if shutil.which("systemctl"):
        units = ["docker.service", "docker.socket", "containerd.service"]
        subprocess.run(["systemctl", "disable", *units], capture_output=True, check=False)


def _apt(words: Sequence[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]


@contextmanager
def _nothing_starts() -> Iterator[None]:
    if _POLICY.exists():
        yield  # the machine has a policy of its own, or `./stack` has just written one
        return
    try:
        _POLICY.write_text("#!/bin/sh\n# Written by e2e/docker/engine.py. Safe to delete.\nexit 101\n")
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _builder() -> Path:
    """Return the first client on PATH that can talk to BuildKit: by buildx, or by itself, as up to 20.10."""
    for folder in os.get_exec_path():
        client = Path(folder) / "docker"
        if not os.access(client, os.X_OK):
            continue
        if _says(client, "buildx", "version") or "version 20." in _says(client, "--version"):
            return client
    raise AssertionError("no docker on PATH can build: install docker-buildx")


def _says(client: Path, *words: str) -> str:
    done = subprocess.run([client, *words], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def _answers(client: Path, host: str) -> bool:
    done = subprocess.run(
        [client, "version"], env={**os.environ, "DOCKER_HOST": host}, capture_output=True, timeout=30, check=False
    )
    return done.returncode == 0
