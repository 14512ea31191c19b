"""Checks of what `up --docker` needs, and of the containers that are there.

How it works: as the native checks, but they look at Compose, the engine, and the machine that the engine runs on.
A finding that makes others pointless (no Compose, no engine) ends the report.

What belongs here: what is checked for Docker.
"""

import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from stack.docker import compose, engine, host_ports, memory, model, troubles
from stack.docker.compose import Compose
from stack.docker.containers import Container, verdict
from stack.docker.engine import Engine
from stack.docker.memory import Memory
from stack.docker.model import Declared
from stack.docker.stack import PORTS
from stack.doctor.finding import Finding, Level, ok, problem, warning
from stack.errors import MachineNotReadyError, StackError
from stack.instance import Instance
from stack.supervision import Supervisor

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}
_GIGABYTE = 1024**3
_DISK = 15  # GB: the images of all profiles have some 6, and their building as much
_MAP_COUNT = 262144  # Elasticsearch's own limit; it recommends 1048576
_WITHOUT_MAPPING = "Elasticsearch starts, as compose.yaml keeps it from mapping files, but reads more slowly"
_KILLED = 137
_MAP_COUNT_FILE = Path("/proc/sys/vm/max_map_count")
_KERNEL_FILE = Path("/proc/sys/kernel/osrelease")
_POSTGRES_TAG = re.compile(r"postgres:v?(\d+)")


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the checks look at: the engine (None where no client can ask it), what would be started, what runs."""

    environ: Mapping[str, str]
    values: Mapping[str, str]
    repository: Path
    engine: Engine | None
    wanted: tuple[Declared, ...]
    containers: tuple[Container, ...]
    is_native_up: bool


def platform(situation: Situation) -> Finding:
    """Say what is different on a Mac, in WSL, in Docker Desktop."""
    in_wsl = _KERNEL_FILE.exists() and "microsoft" in _KERNEL_FILE.read_text().lower()
    if in_wsl and situation.repository.is_relative_to("/mnt"):
        return warning(
            f"the clone is on a disk of Windows ({situation.repository}): slow, and mounts may fail",
            "clone it into WSL's own disk: cd ~ && git clone …",
        )
    engine = situation.engine
    if engine is not None and engine.is_virtual:
        return ok(f"{engine.system}: node-exporter and cAdvisor show its virtual machine, not this one")
    return ok("WSL: node-exporter shows its virtual machine" if in_wsl else sys.platform)


def mounted(situation: Situation) -> Finding:
    """Look whether accounts of containers can read what is mounted from the clone: not after `umask 077`."""
    folder = situation.repository / "infra"
    closed = [path for path in (folder, *folder.rglob("*")) if not _is_open(path)]
    if closed:
        return problem(
            f"{len(closed)} files or folders of infra/ are closed to containers, such as {closed[0]}",
            f"chmod -R a+rX {folder}",
        )
    return ok("containers can read infra/")


def _is_open(path: Path) -> bool:
    needed = 0o005 if path.is_dir() else 0o004
    return path.stat().st_mode & needed == needed


def native(situation: Situation) -> Finding:
    """Look whether the native stack is in the way."""
    if situation.is_native_up:
        return problem("the stack is up natively, on the same ports", "./stack down, then ./stack up --docker")
    return ok("down")


def memory_of_engine(situation: Situation) -> Finding:
    """Look whether the engine's machine has the memory that the services may use."""
    engine = situation.engine
    if engine is None:
        return ok("not known: there is no docker client to ask")
    limits = sum(service.memory or 0 for service in situation.wanted)
    logging = sum(service.memory or 0 for service in situation.wanted if "logging" in service.profiles)
    text = f"{engine.memory / _GIGABYTE:.1f} GB; the services may use {limits / _GIGABYTE:.1f} GB"
    more = "give Docker more (Docker Desktop: Settings, Resources; WSL: memory= in .wslconfig), or start less: "
    if logging and engine.memory < logging + 2 * _GIGABYTE:
        text += f", Elasticsearch, Kibana and Filebeat alone {logging / _GIGABYTE:.1f} GB: they would be killed"
        return problem(text, more + "without the profile logging")
    if engine.memory < limits / 2:  # limits are far above what idle services use
        return warning(text, more + "./stack up --docker --profile core")
    return ok(text)


def map_count(situation: Situation) -> Finding:
    """Look whether Elasticsearch may map its files."""
    if not any("elasticsearch" in service.name for service in situation.wanted):
        return ok("not needed without the profile logging")
    if (situation.engine is not None and situation.engine.is_virtual) or not _MAP_COUNT_FILE.exists():
        return ok(
            "not known: it is the virtual machine's. If Elasticsearch ends by itself: ./stack logs elasticsearch"
        )
    count = int(_MAP_COUNT_FILE.read_text())
    return (
        ok(str(count))
        if count >= _MAP_COUNT
        else warning(f"{count} is low; {_WITHOUT_MAPPING}", troubles.MAP_COUNT)
    )


def disk(situation: Situation) -> Finding:
    """Look whether there is room for images and volumes."""
    engine = situation.engine
    if engine is None or engine.is_virtual or not engine.folder.is_dir():
        return ok("not known: it is Docker's own. To look: docker system df")
    free = shutil.disk_usage(engine.folder).free / _GIGABYTE
    text = f"{free:.0f} GB are free in {engine.folder}"
    return (
        ok(text) if free >= _DISK else warning(text, "docker image prune; docker builder prune; docker system df")
    )


def ports_of(situation: Situation) -> Iterator[tuple[str, Finding]]:
    """Look whether the ports are free, or ours: a finding per service that cannot have its own."""
    ours = {number for container in situation.containers for number in container.ports}
    free = list[int]()
    for service in situation.wanted:
        try:
            host_ports.require_free(service, situation.values, ours)
        except MachineNotReadyError as error:
            yield f"ports of {service.name}", problem(error.message, error.hint)
        else:
            free += [port.number for port in service.ports]
    yield "ports", ok(f"free, or this stack's: {', '.join(map(str, sorted(free))) or 'none'}")


def database(situation: Situation) -> Finding:
    """Look whether the volume's database was made by the PostgreSQL that would start on it."""
    for service in situation.wanted:
        tag = _POSTGRES_TAG.search(service.image)
        for name, _ in service.volumes if tag else ():
            folder = engine.volume(name, situation.environ)
            if folder is None:
                return ok("there is none yet")
            try:
                found = _major(folder)
            except PermissionError:
                return ok(f"only root can look into {folder}; postgres itself says when it is too old")
            if found is not None and tag is not None and found != tag[1]:
                return problem(
                    f"the volume {name} was made by PostgreSQL {found}, not {tag[1]}", troubles.OLD_DATABASE
                )
            return ok(f"the volume {name}: PostgreSQL {found}" if found else f"the volume {name} is empty")
    return ok("not known: compose.yaml has another image")


def _major(folder: Path) -> str | None:
    """Return which PostgreSQL made the database: the newest, where each version has a folder of its own."""
    places = [*folder.glob("PG_VERSION"), *folder.glob("data/PG_VERSION"), *folder.glob("*/docker/PG_VERSION")]
    if not places and not any(folder.iterdir()):
        return None
    return max((place.read_text().strip() for place in places), key=float, default=None)


def containers_of(situation: Situation) -> Iterator[tuple[str, Finding]]:
    """Look at the containers: a finding per service that is not well, and one for all others."""
    well = []
    for service in situation.wanted:
        ours = [container for container in situation.containers if container.service == service.name]
        one = verdict(service, ours)
        if not one.is_bad:
            well += [service.name] if one.is_well else []
            continue
        said = "; ".join(container.status for container in ours)
        fix = f"./stack logs {service.name}, then ./stack up --docker, which starts it again"
        if any(container.exit_code == _KILLED for container in ours):
            fix += f"\n{troubles.MEMORY}"
        if service.is_one_shot:
            fix += "\nwhat waits for its success has not been started"
        yield service.name, problem(f"{one.value}: {said}", fix)
    yield (
        "containers",
        ok(f"{len(well)} services are well" if situation.containers else "none: the stack is down"),
    )


_CHECKS: tuple[tuple[str, Callable[[Situation], Finding]], ...] = (
    ("platform", platform),
    ("mounted files", mounted),
    ("native stack", native),
    ("memory", memory_of_engine),
    ("vm.max_map_count", map_count),
    ("disk", disk),
    ("database", database),
)


def examine(repository: Path, state: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, Finding]]:
    """Run all checks, one after the other; whatever one raises is its finding.

    Args:
        repository: The clone.
        state: The state folder, there or not.
        environ: What `up --docker` would be given.
    """
    what = "Compose"
    try:
        words, version = compose.find()
        yield what, ok(f"{version} ({' '.join(words)})")
        what = "engine"
        settled = memory.settle(memory.read(state), environ, PORTS, repository=repository)
        program = Compose(words, repository, settled)
        found = engine.look(settled.environment)
        containers = tuple(Container.of(said) for said in program.containers())
        yield what, ok(f"{found.version}, {found.system}" if found else "answers")
        what = "compose.yaml"
        situation = _situation(program, settled, found, containers, repository=repository, state=state)
        yield what, ok(f"{len(situation.wanted)} services to start")
    except StackError as error:
        yield what, problem(error.message, error.hint)
        return
    for name, look in _CHECKS:
        try:
            yield name, look(situation)
        except StackError as error:
            yield name, problem(error.message, error.hint)
        except (OSError, ValueError) as error:  # a machine in trouble has surprises: the other checks go on
            yield name, warning(f"could not be looked at: {error!r}", "look at it yourself; it may still work")
    yield from ports_of(situation)
    yield from containers_of(situation)


def _situation(
    program: Compose,
    settled: Memory,
    found: Engine | None,
    containers: tuple[Container, ...],
    *,
    repository: Path,
    state: Path,
) -> Situation:
    values = memory.values(settled, repository)
    declared = model.read(program.configuration())
    names = model.of_profiles(declared, memory.profiles(values))
    instance = Instance(repository=repository, state=state, values=values)
    return Situation(
        environ=settled.environment,
        values=values,
        repository=repository,
        engine=found,
        wanted=tuple(declared[name] for name in names),
        containers=containers,
        is_native_up=Supervisor(instance).is_up,
    )


def show(repository: Path, state: Path, environ: Mapping[str, str], console: Console) -> int:
    """Run every check and print its line, with the fix under what is not well.

    Returns:
        The command's exit code: 0 when `up --docker` would work.
    """
    problems = 0
    for name, finding in examine(repository, state, environ):
        level = (f"{finding.level.value:<8}", _STYLES[finding.level])
        console.print(Text.assemble(level, f" {name:<25} {' '.join(finding.text.split())}"), soft_wrap=True)
        for line in finding.fix.splitlines():
            console.print(Text(f"{'':<34} -> {line}"), soft_wrap=True)
        problems += finding.level is Level.PROBLEM
    last = (
        f"{problems} to correct, then: ./stack up --docker"
        if problems
        else "Docker is ready: ./stack up --docker"
    )
    console.print(f"\n{last}", highlight=False)
    return 3 if problems else 0
