"""What a service is: the words in which the table `services.py` is written.

What belongs here: values without behaviour. A service's neutral part (name, ports, needs, health, links) holds
however it is started; its programs say how it is started natively.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from stack.instance import Instance
from stack.ports import Port
from stack.processes import reported_version


@dataclass(frozen=True, kw_only=True)
class Package:
    """Something that Debian provides: the package, how to see that it is there, and its systemd unit if any.

    `version` says which version the found program is, None where that is not known; `oldest` is the first one
    that is known to work.
    """

    name: str
    find: Callable[[], Path | None]
    unit: str | None = None
    version: Callable[[Path], str | None] = reported_version
    oldest: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Binary:
    """A program that neither Debian nor PyPI has: used where it is found, and its service left out elsewhere.

    `how` says, in one line, how to get it.
    """

    find: Callable[[], Path | None]
    how: str


@dataclass(frozen=True, kw_only=True)
class Link:
    """Something to open: texts may name settings in braces, as in `http://127.0.0.1:{API_PORT}/docs`."""

    title: str
    url: str
    login: str = ""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One supervised process, started natively.

    `user` is the system account that it runs as when root starts the stack (None: the invoking user).
    `stop_signal` asks it to end; after `stop_wait` seconds it is killed. `death_signal` is what the kernel
    sends it when the supervisor itself dies.
    """

    name: str
    command: Callable[[Instance], list[str]]
    environment: Callable[[Instance], dict[str, str]] = lambda _: {}
    directory: Callable[[Instance], Path] = lambda instance: instance.state
    user: str | None = None
    stop_signal: str = "TERM"
    death_signal: str = "TERM"
    stop_wait: int = 10  # s


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service of the system.

    `health` raises `UnhealthyError` until the service does its work; `health_deadline` is how long `up` waits for
    it, in seconds. `prepare` makes its data folder and configuration, or the schema it needs, before it starts;
    its event is set when the user gives up. `venv` names the Python environment that it runs in.

    `profile` is what `up --profile` chooses it by. `binary` is what it cannot be without, for a server that no
    package brings. With `in_background`, it makes its environment and gets ready by itself, after all others:
    nobody waits for it.
    """

    name: str
    description: str
    programs: tuple[Program, ...]
    health: Callable[[Instance], None]
    health_deadline: float  # s
    ports: tuple[Port, ...] = ()
    needs: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()
    venv: str | None = None
    profile: str = "core"
    binary: Binary | None = None
    in_background: bool = False
    prepare: Callable[[Instance, Event], None] = lambda _, __: None
    links: tuple[Link, ...] = ()

    @property
    def is_installed(self) -> bool:
        """Whether everything is here that it runs from, but for its Python environment."""
        binaries = [package.find for package in self.packages] + ([self.binary.find] if self.binary else [])
        return all(find() is not None for find in binaries)

    @property
    def is_left_out(self) -> bool:
        """Whether it cannot be started here, and `up` does without it: no package brings its program."""
        return self.binary is not None and self.binary.find() is None
