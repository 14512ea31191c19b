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
    prepare: Callable[[Instance, Event], None] = lambda _, __: None
    links: tuple[Link, ...] = ()
