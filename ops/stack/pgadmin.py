"""`pgadmin`: installs pgAdmin, sets it up, and becomes it. A program under the supervisor, so `up` need not wait.

How it works: it makes the environment when it is not current, trying again when that fails (without a network,
for instance), writes the configuration, runs pgAdmin's own set-up, and replaces itself by the server. Stopped at
any moment, it leaves nothing that the next start does not make anew.

What belongs here: that order. What it runs is in `servers/pgadmin.py`.
"""

import os
import threading
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path

from stack import environments, processes
from stack.errors import StackError
from stack.instance import Instance
from stack.servers import pgadmin
from stack.services import PGADMIN, PORTS

_PAUSES = (10, 30, 60, 300)  # s before each new try; then always the last
_NEVER = threading.Event()  # the supervisor's signals end the program itself


def get_ready(instance: Instance, sleep: Callable[[float], None] = time.sleep) -> None:
    """Make the environment unless it is current, write the configuration, make or update pgAdmin's database.

    What fails is tried again after a pause, for ever.
    """
    for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
        try:
            _install(instance)
            _set_up(instance)
        except StackError as error:
            _say(f"{error.message}; trying again in {pause} s\n{error.hint}")
            sleep(pause)
        else:
            return


def _install(instance: Instance) -> None:
    environment = environments.of_service(PGADMIN.name)
    if environments.is_current(environment, instance):
        return
    _say("installing its environment")
    begin = time.monotonic()
    environments.make(environment, instance, _NEVER, yields=True)
    _say(f"installed in {time.monotonic() - begin:.0f} s")


def _set_up(instance: Instance) -> None:
    pgadmin.configure(instance)
    log, environ = instance.log("pgadmin-setup"), _environ(instance)
    for command in pgadmin.steps(instance):
        processes.run(command, log=log, cancelled=_NEVER, what="setting pgAdmin up", environ=environ)


def _environ(instance: Instance) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # that is ours
    return {**inherited, **pgadmin.server_environment(instance)}


def main() -> None:
    """Become pgAdmin."""
    instance = Instance.at(Path(os.environ["STACK_ROOT"]), Path(os.environ["STACK_STATE"]), PORTS)
    get_ready(instance)
    command = pgadmin.server_command(instance)
    os.execve(command[0], command, _environ(instance))  # noqa: S606 (no shell is meant)


def _say(text: str) -> None:
    print(f"pgadmin: {text}", flush=True)


if __name__ == "__main__":
    main()
