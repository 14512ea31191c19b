"""The engine: what Docker says of the machine that containers run on, which on Mac and Windows is a virtual one.

How it works: the client `docker` asks it. Where only `docker-compose` is installed, nothing is known but that
Compose reaches the engine.

What belongs here: questions to the engine itself. Compose is in `compose.py`.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.docker import compose

_PATIENCE = 20  # s
_OF_DESKTOP = ("Docker Desktop", "OrbStack", "Rancher Desktop")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine that answers; `memory` is all that its machine has, in bytes."""

    version: str
    system: str
    memory: int
    folder: Path

    @property
    def is_virtual(self) -> bool:
        """Whether it runs in a virtual machine: this machine's /proc and folders are not the engine's."""
        return self.system.startswith(_OF_DESKTOP) or not Path("/proc").is_dir()


def look(environ: Mapping[str, str]) -> Engine | None:
    """Return the engine; None where there is no client to ask it with.

    Args:
        environ: The environment to ask in: DOCKER_HOST and the like.

    Raises:
        MachineNotReadyError: It does not answer, or does not let us in.
    """
    if shutil.which("docker") is None:
        return None
    info = json.loads(_ask(["info", "--format", "{{json .}}"], environ))
    return Engine(
        version=info["ServerVersion"],
        system=info["OperatingSystem"],
        memory=info["MemTotal"],
        folder=Path(info["DockerRootDir"]),
    )


def volume(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the folder of a volume; None where there is no such volume, or no client to ask with."""
    if shutil.which("docker") is None:
        return None
    if name not in _ask(["volume", "ls", "--quiet"], environ).split():
        return None
    inspected: list[dict[str, Any]] = json.loads(_ask(["volume", "inspect", name], environ))
    return Path(inspected[0]["Mountpoint"])


def _ask(words: Sequence[str], environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["docker", *words],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    # Some versions print an empty answer, say on stderr why, and exit with 0.
    if done.returncode or "Cannot connect" in done.stderr:
        raise compose.refused(done.stderr)
    return done.stdout
