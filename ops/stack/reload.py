"""`reload`: restarts a project's program when code that it uses changes. Development only.

How it works: a program under the supervisor beside the others. It watches the projects' and libraries' sources
and asks the supervisor to stop and start what uses a changed file. A file with a mistake makes its service fail;
the next good save brings it back. What was stopped on purpose stays stopped.

What belongs here: the watching, and which program uses which folder.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from watchfiles import PythonFilter, watch

from stack.errors import StackError
from stack.instance import Instance
from stack.servers.projects import LIBRARIES, ROOTS
from stack.services import PORTS, PROJECT_API, PROJECT_WORKER
from stack.supervision import Supervisor

_STOP_TIMEOUT = 30  # s; more than the programs' own time to stop


def affected(changed: Iterable[Path], repository: Path) -> list[str]:
    """Return the programs that use any of the changed files."""
    changed = list(changed)
    return [
        program.name
        for service in (PROJECT_WORKER, PROJECT_API)
        for program in service.programs
        if any(
            path.is_relative_to(repository / root)
            for path in changed
            for root in (ROOTS[service.name], *LIBRARIES)
        )
    ]


def restart(program: str, supervisor: Supervisor) -> None:
    """Stop and start a program, unless it was stopped on purpose."""
    if supervisor.state(program).was_stopped:
        print(f"{program}: its code changed, but it is stopped", flush=True)
        return
    print(f"{program}: its code changed, restarting it", flush=True)
    supervisor.stop(program)
    supervisor.wait_ended(program, _STOP_TIMEOUT)
    supervisor.start(program)


def main() -> None:
    """Watch until the supervisor stops us."""
    repository = Path(os.environ["STACK_ROOT"])
    instance = Instance.at(repository, Path(os.environ["STACK_STATE"]), PORTS)
    supervisor = Supervisor(instance)
    folders = [repository / root for root in (*ROOTS.values(), *LIBRARIES)]
    for changes in watch(*folders, watch_filter=PythonFilter(), raise_interrupt=False):
        for program in affected((Path(path) for _, path in changes), repository):
            try:
                restart(program, supervisor)
            except StackError as error:  # it goes on watching: the next save may help
                print(f"{program}: {error.message}", flush=True)


if __name__ == "__main__":
    main()
