"""Docker Compose as a program: which one is here, how it is called, and what it answers.

How it works: `docker compose` (a plugin of the docker client) and `docker-compose` (a program of its own) take
the same words; the first that is new enough is used. Every call names the project, and runs in the clone, where
compose.yaml and .env are.

What belongs here: the only code that runs Compose.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from stack.docker.memory import Memory
from stack.errors import MachineNotReadyError, StackError

OLDEST = (2, 24)
"""From here on `ps --format json` answers a line per container, and `--profile '*'` means all."""

INSTALL = """\
Mac, Windows: Docker Desktop has it, https://docs.docker.com/desktop (on Windows, use it from WSL)
Ubuntu: sudo apt-get install docker.io docker-compose-v2
Debian and others: https://docs.docker.com/engine/install"""
"""How to get Docker with its Compose, in a few lines."""

WITHOUT = "Or without Docker, with the servers of Debian or Ubuntu: ./stack up --native"

_CANDIDATES = (("docker", "compose"), ("docker-compose",))
_VERSION = re.compile(r"\d+(\.\d+)+")
_VANISHED = 20  # times in a row that a container may be replaced while all are listed
_PATIENCE = 60  # s for an answer that only asks


def find() -> tuple[tuple[str, ...], str]:
    """Return the words that Compose is called with, and its version.

    Raises:
        MachineNotReadyError: There is none, or only one that is too old.
    """
    too_old = list[str]()
    for words in _CANDIDATES:
        version = _version(words)
        if version is None:
            continue
        if tuple(map(int, version.split(".")))[:2] >= OLDEST:
            return words, version
        too_old.append(f"{' '.join(words)} is {version}")
    oldest = ".".join(map(str, OLDEST))
    if too_old:
        raise MachineNotReadyError(
            f"Docker Compose is too old: {', '.join(too_old)}; {oldest} or newer is needed",
            hint=f"install a newer one:\n{INSTALL}\n{WITHOUT}",
        )
    if shutil.which("docker"):
        raise MachineNotReadyError(
            "docker is here, but its Compose is not: neither `docker compose` nor `docker-compose` answers",
            hint=f"install it, {oldest} or newer (of Docker's own packages: docker-compose-plugin):\n"
            f"{INSTALL}\n{WITHOUT}",
        )
    raise MachineNotReadyError("Docker is not installed", hint=f"{INSTALL}\n{WITHOUT}")


def _version(words: Sequence[str]) -> str | None:
    if shutil.which(words[0]) is None:
        return None
    try:
        done = subprocess.run(
            [*words, "version", "--short"], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stdout)
    return found[0] if found and not done.returncode else None


class Compose:
    """Compose, for one project of one clone."""

    def __init__(self, words: Sequence[str], repository: Path, memory: Memory) -> None:
        self.words = words
        self._repository = repository
        self._project = memory.project
        self._environ = {**os.environ, **memory.environment}

    @property
    def shown(self) -> str:
        """What a user types to do the same without ./stack."""
        return f"{' '.join(self.words)} -p {self._project}"

    def ask(self, *words: str) -> str:
        """Return what a call that changes nothing prints.

        Raises:
            MachineNotReadyError: The engine does not answer, or does not let us in.
            StackError: Compose refuses; says why.
        """
        try:
            done = subprocess.run(
                self._command(words),
                cwd=self._repository,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MachineNotReadyError(
                f"Docker has not answered within {_PATIENCE} s",
                hint="restart it: sudo systemctl restart docker, or Docker Desktop from its menu",
            ) from error
        if done.returncode:
            raise refused(done.stderr)
        return done.stdout

    def containers(self) -> Iterator[Mapping[str, Any]]:
        """Return what `ps --all` says of each container of the project, running or not."""
        lines = self._listed().splitlines()
        return (json.loads(line) for line in lines if line.strip())

    def configuration(self) -> Mapping[str, Any]:
        """Return compose.yaml with every variable in its place, and the services of all profiles."""
        read: Mapping[str, Any] = json.loads(self.ask("--profile", "*", "config", "--format", "json"))
        return read

    def begin(self, words: Iterable[str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
        """Begin a call that changes something, in a session of its own: Ctrl-C reaches it only through us."""
        return subprocess.Popen(
            self._command(words),
            cwd=self._repository,
            env={**self._environ, "COMPOSE_PROGRESS": "plain", "COMPOSE_ANSI": "never"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @contextmanager
    def stream(self, *words: str) -> Iterator[Iterator[str]]:
        """Run a call whose lines are read as they come; it is ended when nobody reads on.

        Raises:
            MachineNotReadyError: The engine does not answer, or does not let us in.
            StackError: Compose refuses; says why.
        """
        with (
            tempfile.TemporaryFile("w+") as said,
            subprocess.Popen(
                self._command(words),
                cwd=self._repository,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                errors="replace",
                start_new_session=True,
            ) as process,
        ):
            try:
                yield iter(process.stdout or ())
                if process.wait():
                    said.seek(0)
                    raise refused(said.read())
            finally:
                if process.poll() is None:
                    end(process)

    def _listed(self) -> str:
        """Return what `ps` prints; once more when a container went between its being listed and looked at."""
        words = ("--profile", "*", "ps", "--all", "--format", "json")
        for _ in range(_VANISHED):
            try:
                return self.ask(*words)
            except StackError as error:
                if "No such container" not in error.message:
                    raise
        return self.ask(*words)

    def _command(self, words: Iterable[str]) -> list[str]:
        return [*self.words, "-p", self._project, *words]


def refused(said: str) -> StackError:
    """Return what Compose's or Docker's refusal means: an engine that is not there, or anything else."""
    text = said.strip() or "it said nothing"
    if "permission denied" in text and "connect" in text:
        return MachineNotReadyError(
            "Docker does not let this user in",
            hint="sudo usermod -aG docker $USER, then log in anew (members of that group are as mighty as root)",
        )
    if "Cannot connect to the Docker daemon" in text or "failed to connect to the docker API" in text:
        where = os.environ.get("DOCKER_HOST")
        return MachineNotReadyError(
            "Docker is installed, but its engine is not running" + (f" (DOCKER_HOST={where})" if where else ""),
            hint="Linux: sudo systemctl start docker\n"
            "Mac, Windows: start Docker Desktop, and wait until it says that the engine runs\n"
            "(on Windows, Docker Desktop's Settings, Resources, WSL integration must name this distribution)\n"
            + ("if DOCKER_HOST is a leftover: unset DOCKER_HOST\n" if where else "")
            + WITHOUT,
        )
    *before, last = text.splitlines()
    return StackError(f"Docker Compose refuses: {last}", hint="\n".join(before[-15:]))


def end(process: "subprocess.Popen[Any]") -> None:
    """Ask a call to end, and wait until it has: both programs, where Compose is a plugin of docker."""
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
