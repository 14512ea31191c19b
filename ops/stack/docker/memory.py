"""What a Docker stack was started with: `<state folder>/docker.env`.

How it works: `up --docker` writes the variables of its environment that matter to Compose (project, files,
profiles, ports, logins) and how many containers of a service are wanted. Later commands add them to theirs, so
that `./stack stop redis` means the stack that `API_PORT=5001 ./stack up --docker` has started, from any shell.
That the file is there is what makes a stack a Docker one; `down` removes it.

What belongs here: this file, and what goes into it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stack import settings
from stack.errors import MachineNotReadyError, UsageError
from stack.ports import OFFSET, Port

PROJECT = "COMPOSE_PROJECT_NAME"
PROFILES = "COMPOSE_PROFILES"
_DEFAULT_PROJECT = (
    "local-dev"  # as in the clone's compose.yaml: `docker compose -p local-dev ps` shows this stack
)

_OF_CLIENTS = (
    PROJECT,
    PROFILES,
    "COMPOSE_FILE",
    "COMPOSE_ENV_FILES",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
)
"""Variables that Compose and Docker read themselves."""

_SCALE = "STACK_SCALE_"
_HEADER = """\
# Written by `./stack up --docker`: what its environment asked for, so that later commands mean the same stack.
# `./stack down` removes it. What it does not say is in .env, beside compose.yaml.
"""
_VARIABLE = re.compile(r"\$\{(\w+)")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a Docker stack was started with; `scale` is how many containers a service has, where it was asked."""

    environment: Mapping[str, str]
    scale: Mapping[str, int]

    @property
    def project(self) -> str:
        """Compose's name of the stack, which its containers, networks and volumes begin with."""
        return self.environment[PROJECT]

    def scaled(self, service: str, count: int) -> "Memory":
        """Return the same with `count` containers of a service."""
        return replace(self, scale={**self.scale, service: count})


def path(state: Path) -> Path:
    """Return the file's place in a state folder."""
    return state / "docker.env"


def read(state: Path) -> Memory | None:
    """Return what the Docker stack in this state folder was started with; None when there is none.

    Raises:
        MachineNotReadyError: The file cannot be read, or says what it cannot.
    """
    values = settings.read(path(state))
    if not values:
        return None
    if PROJECT not in values:
        raise MachineNotReadyError(f"{path(state)} names no {PROJECT}", hint="add it, or remove the file")
    scale = {}
    for key, value in values.items():
        if key.startswith(_SCALE):
            if not (value.isascii() and value.isdecimal()):
                raise MachineNotReadyError(
                    f"{path(state)}: {key} is no number", hint="correct it, or remove the file"
                )
            scale[key.removeprefix(_SCALE)] = int(value)
    environment = {key: value for key, value in values.items() if not key.startswith(_SCALE)}
    return Memory(environment=environment, scale=scale)


def write(state: Path, memory: Memory) -> None:
    """Remember it."""
    scale = {_SCALE + service: str(count) for service, count in memory.scale.items()}
    settings.write(path(state), {**memory.environment, **scale}, header=_HEADER)


def settle(
    earlier: Memory | None,
    environ: Mapping[str, str],
    ports: Iterable[Port],
    *,
    repository: Path,
    profiles: Iterable[str] = (),
) -> Memory:
    """Work out what a Docker stack is started with.

    Args:
        earlier: What it was started with before, None for the first time.
        environ: The environment of the command; its values win over what was remembered.
        ports: The ports that STACK_PORT_OFFSET moves.
        repository: The clone: its .env and its compose.yaml say which variables there are.
        profiles: What `--profile` names; none leaves them to `.env`.

    Raises:
        UsageError: STACK_PORT_OFFSET is no number.
    """
    declared = settings.read(repository / ".env")
    ports = tuple(ports)
    names = {*_OF_CLIENTS, *settings.OPTIONAL, *declared, *(port.variable for port in ports)}
    names.update(_VARIABLE.findall((repository / "compose.yaml").read_text()))
    values = {PROJECT: _DEFAULT_PROJECT, **(earlier.environment if earlier else {})}
    if environ.get(OFFSET):
        values |= {p.variable: str(p.default + _number(environ[OFFSET])) for p in ports if p.variable in declared}
    # An empty COMPOSE_PROFILES says something, too: the core alone.
    values |= {
        name: environ[name]
        for name in sorted(names)
        if environ.get(name) or (name == PROFILES and name in environ)
    }
    if chosen := list(profiles):
        values[PROFILES] = ",".join(name for name in chosen if name != "core")
    return Memory(environment=values, scale=earlier.scale if earlier else {})


def values(memory: Memory, repository: Path) -> dict[str, str]:
    """Return every setting in force: those of .env, unless the stack was started with others."""
    return {**settings.read(repository / ".env"), **memory.environment}


def profiles(values: Mapping[str, str]) -> list[str]:
    """Return the profiles that settings name."""
    return [name for name in values.get(PROFILES, "").split(",") if name]


def _number(offset: str) -> int:
    try:
        return int(offset)
    except ValueError as error:
        raise UsageError(
            f"{OFFSET}={offset} is no number", hint=f"use a number: {OFFSET}=100 ./stack up --docker"
        ) from error
