"""How a stack was started, natively or with Docker, which decides who does what a command says.

How it works: `up` chooses, natively unless told otherwise; a Docker stack is remembered in the state folder until
`down`. All other commands mean the stack that is there.

What belongs here: what both ways can do, and the choice.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console

from stack import services
from stack.docker import memory
from stack.docker.stack import PORTS, DockerStack
from stack.errors import StackError
from stack.instance import Instance
from stack.native import NativeStack
from stack.records import Wanted


class Stack(Protocol):
    """What every stack does, however it was started. `instance` has the settings in force."""

    @property
    def instance(self) -> Instance:
        """The settings in force, with the folders."""

    def down(self, console: Console, *, volumes: bool) -> None:
        """Stop everything, with `volumes` delete the data too."""

    def status(self, console: Console) -> bool:
        """Print a line per service; return whether nothing is wrong."""

    def stop(self, names: Sequence[str], console: Console) -> None:
        """Stop services; the others go on."""

    def start(self, names: Sequence[str], console: Console) -> None:
        """Start services of a stack that is up."""

    def restart(self, names: Sequence[str], console: Console) -> None:
        """Stop and start services again; without names, all that are not stopped on purpose."""

    def logs(
        self, names: Sequence[str], wanted: Wanted | None, *, lines: int, follow: bool, console: Console
    ) -> None:
        """Show what the services print; with ids, what all of them printed about these."""

    def scale(self, name: str, count: int, console: Console) -> None:
        """Run so many of a service."""

    def urls(self, console: Console) -> None:
        """Show what there is to open, and with which login."""


def current(repository: Path, state: Path, errors: Console) -> Stack:
    """Return the stack of a state folder, as it was started; a native one that is down where none was."""
    remembered = memory.read(state)
    if remembered is not None:
        return DockerStack(repository, state, remembered, errors)
    return native(repository, state, errors)


def native(repository: Path, state: Path, errors: Console) -> NativeStack:
    """Return the native stack of a state folder.

    Raises:
        StackError: It was started with Docker.
    """
    if memory.read(state) is not None:
        raise StackError(
            "the stack was started with Docker",
            hint="to change over: ./stack down, then ./stack up --native\n"
            f"if Docker is gone: rm {memory.path(state)}",
        )
    return NativeStack(Instance.at(repository, state, services.PORTS), errors)


def docker(
    repository: Path, state: Path, environ: Mapping[str, str], profiles: Sequence[str], errors: Console
) -> DockerStack:
    """Return the Docker stack of a state folder, with what `environ` and `--profile` ask for."""
    earlier = memory.read(state)
    settled = memory.settle(earlier, environ, PORTS, repository=repository, profiles=profiles)
    return DockerStack(repository, state, settled, errors)
