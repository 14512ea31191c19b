"""The plan: every suite, where it lies and what it runs in.

What belongs here: entries. A new project or test folder is one entry.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stack.environments import Environment
from stack.errors import UsageError
from stack.servers.projects import LIBRARIES
from stack.service import Package

_DEV = Path("requirements-dev.lock")

API = Environment(name="project-api-test", locks=(Path("project-api/requirements.lock"), _DEV), paths=LIBRARIES)
WORKER = Environment(
    name="project-worker-test", locks=(Path("project-worker/requirements.lock"), _DEV), paths=LIBRARIES
)
OPS = Environment(
    name="ops-test", locks=(Path("ops/requirements.lock"), Path("ops/dashboards/requirements.lock"), _DEV)
)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A folder with a pyproject.toml and tests.

    `source` is its import root, in the folder; `needs_servers` says whether the session's servers are for it;
    `packages` are Debian's that only its tests need.
    """

    name: str
    folder: Path
    source: Path
    environment: Environment
    needs_servers: bool
    packages: tuple[Package, ...] = ()


BROWSERS = ("chromium", "google-chrome", "chromium-browser")
"""Programs that can open /docs, best first: Debian's own; on Ubuntu, where that is a snap, Chrome."""


def _browser() -> Path | None:
    return next((Path(found) for name in BROWSERS if (found := shutil.which(name))), None)


CHROMIUM = Package(name="chromium", find=_browser)


SUITES = (
    # The libraries run in the worker's environment, the smaller one: a dependency on FastAPI would be found.
    Suite(
        name="contracts",
        folder=Path("libs/project-contracts"),
        source=Path("src"),
        environment=WORKER,
        needs_servers=False,
    ),
    Suite(
        name="database",
        folder=Path("libs/project-database"),
        source=Path("src"),
        environment=WORKER,
        needs_servers=True,
    ),
    Suite(
        name="async-celery",
        folder=Path("libs/async-celery"),
        source=Path("src"),
        environment=WORKER,
        needs_servers=True,
    ),
    Suite(
        name="project-worker",
        folder=Path("project-worker"),
        source=Path("project-worker"),
        environment=WORKER,
        needs_servers=True,
    ),
    Suite(
        name="project-api",
        folder=Path("project-api"),
        source=Path("project-api"),
        environment=API,
        needs_servers=True,
    ),
    # These two start whole stacks themselves.
    Suite(name="ops", folder=Path("ops"), source=Path(), environment=OPS, needs_servers=False),
    Suite(
        name="e2e",
        folder=Path("e2e"),
        source=Path(),
        environment=OPS,
        needs_servers=False,
        packages=(CHROMIUM,),
    ),
)

CHECKS = ("lint", "types", "imports")
"""What runs before the suites, in this order."""


def chosen(names: Sequence[str]) -> tuple[list[str], list[Suite]]:
    """Return the checks and the suites with these names; all of them when none is named.

    Raises:
        UsageError: There is nothing of a name; lists what there is.
    """
    known = [*CHECKS, *(suite.name for suite in SUITES)]
    if unknown := sorted(set(names).difference(known)):
        raise UsageError(f"there is no suite {', '.join(unknown)}", hint=f"suites: {', '.join(known)}")
    wanted = set(names or known)
    return [name for name in CHECKS if name in wanted], [suite for suite in SUITES if suite.name in wanted]
