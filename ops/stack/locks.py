"""Locked requirements: what every environment installs, and what pip users install.

How it works: `uv pip compile` turns the requirements.in files into locks with hashes, for every platform; each
later lock is constrained by the earlier ones, so that shared packages have one version everywhere (but for what
the benchmarks compare us with). The projects' requirements.txt is the same set without hashes plus our libraries
as folders, because pip refuses hashes beside local folders. No index address stands in any of them.

What belongs here: which lock is made from what.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError
from stack.instance import Instance

PROJECTS = ("project-api", "project-worker")
_LIBRARIES = ("libs/async-celery", "libs/project-contracts", "libs/project-database")
_API, _WORKER = (f"{project}/requirements.lock" for project in PROJECTS)
_OPS, _DEV = "ops/requirements.lock", "requirements-dev.lock"
_DASHBOARDS = "ops/dashboards/requirements.lock"


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lock: its file, what it is made from, and the locks whose versions it takes over."""

    path: str
    sources: tuple[str, ...]
    constraints: tuple[str, ...] = ()


_LIBRARY_SOURCES = tuple(f"{library}/pyproject.toml" for library in _LIBRARIES)

LOCKS = (
    Lock(path=_API, sources=("project-api/requirements.in", *_LIBRARY_SOURCES)),
    Lock(path=_WORKER, sources=("project-worker/requirements.in", *_LIBRARY_SOURCES), constraints=(_API,)),
    Lock(path=_OPS, sources=("ops/requirements.in",), constraints=(_API, _WORKER)),
    Lock(
        path="infra/flower/requirements.lock", sources=("infra/flower/requirements.in",), constraints=(_WORKER,)
    ),
    Lock(path=_DASHBOARDS, sources=("ops/dashboards/requirements.in",), constraints=(_API, _WORKER, _OPS)),
    Lock(path=_DEV, sources=("requirements-dev.in",), constraints=(_API, _WORKER, _OPS, _DASHBOARDS)),
)

ALONE = (Lock(path="infra/pgadmin/requirements.lock", sources=("infra/pgadmin/requirements.in",)),)
"""The locks of what others have written and pinned: its more than hundred packages cannot have our versions."""


def _of_benchmark(folder: str, *sources: str, constraints: tuple[str, ...] = ()) -> Lock:
    return Lock(
        path=f"benchmarks/{folder}/requirements.lock",
        sources=(f"benchmarks/{folder}/requirements.in", *sources),
        constraints=constraints,
    )


BENCHMARKS = (
    # Celery and our library in the versions that the projects run.
    _of_benchmark("contenders/celery", constraints=(_API,)),
    _of_benchmark("contenders/async_celery", "libs/async-celery/pyproject.toml", constraints=(_API,)),
    # Each peer in its newest version, which may need another redis-py than ours: constrained by nothing.
    *(_of_benchmark(f"contenders/{name}") for name in ("taskiq", "aio_celery", "dramatiq", "aiormq", "arq")),
    _of_benchmark("contenders/limits", constraints=(_API,)),
    # The web framework, the driver and the data in the versions that the projects run.
    _of_benchmark("contenders/postgres", constraints=(_API, _WORKER)),
    _of_benchmark("plots"),
)
"""The locks of `./stack bench`: every contender runs in an environment of its own."""

_HEADER = """\
# What `pip install -r requirements.txt` installs. Written by `./stack lock` from requirements.lock, without the
# hashes: pip refuses them beside local folders. Change requirements.in, then run `./stack lock`.
"""


def write_all(instance: Instance, *, upgrade: bool) -> Iterator[Path]:
    """Write every lock and both requirements.txt.

    Args:
        instance: Whose repository is meant.
        upgrade: Whether to take the newest versions; otherwise those in the present locks stay.

    Yields:
        Each file as it is written.

    Raises:
        StackError: The requirements contradict each other, or the index does not answer.
    """
    for lock in (*LOCKS, *ALONE, *BENCHMARKS):
        _compile(lock, instance.repository, upgrade=upgrade)
        yield instance.repository / lock.path
    for project in PROJECTS:
        folder = instance.repository / project
        (folder / "requirements.txt").write_text(without_hashes((folder / "requirements.lock").read_text()))
        yield folder / "requirements.txt"


def pins(text: str) -> list[str]:
    """Return the pinned requirements of a lock, markers included, without hashes."""
    lines = (line for line in text.splitlines() if line and not line.startswith((" ", "#")))
    return [line.removesuffix("\\").strip() for line in lines]


def without_hashes(lock: str) -> str:
    """Return the requirements.txt that belongs to a project's lock."""
    folders = [f"../{library}" for library in _LIBRARIES]
    return _HEADER + "\n".join([*folders, *pins(lock)]) + "\n"


def _compile(lock: Lock, repository: Path, *, upgrade: bool) -> None:
    command = [
        os.environ.get("STACK_UV", "uv"),
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.11",
    ]
    command += [
        "--generate-hashes",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--no-header",
        "--no-annotate",
    ]
    command += [*lock.sources, *(word for path in lock.constraints for word in ("-c", path)), "-o", lock.path]
    if upgrade:
        command.append("--upgrade")
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"{lock.path} could not be made", hint=done.stderr.strip())
    if "://" in (repository / lock.path).read_text():
        raise StackError(
            f"an address stands in {lock.path}, which is to be the same everywhere",
            hint="a requirement must name a package of the index: look for an @ in requirements.in",
        )
