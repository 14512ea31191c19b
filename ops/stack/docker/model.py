"""What compose.yaml declares, with this machine's settings in it: services, their needs, ports, limits.

What belongs here: reading Compose's own reading of the file. Nothing here knows a service by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stack.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Published:
    """A port of this machine that leads to a container."""

    host: str  # empty: all addresses
    number: int
    target: int


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A service of compose.yaml. `memory` is the most that it may use, in bytes, None without a limit."""

    name: str
    image: str
    profiles: frozenset[str]
    needs: frozenset[str]
    ports: tuple[Published, ...]
    is_one_shot: bool
    memory: int | None
    volumes: tuple[tuple[str, str], ...]
    """Named volumes: Docker's name, and where it is mounted."""


def read(configuration: Mapping[str, Any]) -> dict[str, Declared]:
    """Return the services of a configuration, by name; what is needed comes first."""
    volumes = {key: value["name"] for key, value in configuration.get("volumes", {}).items()}
    unsorted = {name: _declared(name, said, volumes) for name, said in configuration["services"].items()}
    ordered = dict[str, Declared]()

    def add(name: str) -> None:
        if name not in ordered:
            for need in sorted(unsorted[name].needs):
                add(need)
            ordered[name] = unsorted[name]

    for name in unsorted:
        add(name)
    return ordered


def of_profiles(declared: Mapping[str, Declared], profiles: Iterable[str]) -> list[str]:
    """Return the names of the services that these profiles start, those without a profile always.

    Raises:
        UsageError: There is no profile of a name; lists those there are.
    """
    wanted = set(profiles)
    known = {profile for service in declared.values() for profile in service.profiles}
    if unknown := sorted(wanted - known):
        raise UsageError(
            f"compose.yaml has no profile {', '.join(unknown)}",
            hint=f"profiles: core, {', '.join(sorted(known))}",
        )
    chosen = [name for name, service in declared.items() if not service.profiles or service.profiles & wanted]
    return with_needs(declared, chosen)


def with_needs(declared: Mapping[str, Declared], names: Iterable[str]) -> list[str]:
    """Return these services and all that they need.

    Raises:
        UsageError: There is no service of a name; lists those there are.
    """
    names = list(names)
    require(declared, names)
    wanted = set[str]()
    while names:
        name = names.pop()
        if name not in wanted:
            wanted.add(name)
            names += declared[name].needs
    return [name for name in declared if name in wanted]


def require(declared: Mapping[str, Declared], names: Iterable[str]) -> None:
    """Make sure that compose.yaml has these services.

    Raises:
        UsageError: It has none of a name; lists those there are.
    """
    if unknown := sorted(set(names).difference(declared)):
        raise UsageError(
            f"compose.yaml has no service {', '.join(unknown)}", hint=f"services: {', '.join(declared)}"
        )


def _declared(name: str, said: Mapping[str, Any], volumes: Mapping[str, str]) -> Declared:
    limits = said.get("deploy", {}).get("resources", {}).get("limits", {})
    memory = limits.get("memory", said.get("mem_limit"))
    return Declared(
        name=name,
        image=said.get("image", ""),
        profiles=frozenset(said.get("profiles", ())),
        needs=frozenset(said.get("depends_on") or ()),
        ports=tuple(
            Published(host=port.get("host_ip", ""), number=int(port["published"]), target=port["target"])
            for port in said.get("ports", ())
            if port.get("published")
        ),
        is_one_shot=said.get("restart", "no") == "no",
        memory=int(memory) if memory else None,
        volumes=tuple(
            (volumes[mount["source"]], mount["target"])
            for mount in said.get("volumes", ())
            if mount["type"] == "volume" and mount.get("source") in volumes
        ),
    )
