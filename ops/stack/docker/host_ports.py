"""This machine's ports that lead to containers: whether they are free, and who has them when they are not.

How it works: Docker's own refusal names no owner, so each port is tried before Compose is run.

What belongs here: that look. Ports as such are in `stack/ports.py`.
"""

import sys
from collections.abc import Collection, Mapping

from stack import ports
from stack.docker.model import Declared
from stack.errors import MachineNotReadyError

_TAKEN_BY_MAC = frozenset({5000, 7000})
_AIRPLAY = "On a Mac it is AirPlay's: System Settings, General, AirDrop & Handoff, AirPlay Receiver"


def require_free(service: Declared, values: Mapping[str, str], ours: Collection[int]) -> None:
    """Make sure that a service can have its ports.

    Args:
        service: The service.
        values: The settings in force.
        ours: The ports that containers of this stack have already.

    Raises:
        MachineNotReadyError: Something else has one; names the owner and the variable that moves ours.
    """
    variables = {value: name for name, value in values.items() if name.endswith("_PORT")}
    for port in service.ports:
        if port.number in ours or not ports.is_busy(port.number, port.host):
            continue
        variable = variables.get(str(port.number), "its variable in .env")
        hints = [
            f"stop that program, or move ours: {variable}={port.number + 10} ./stack up --docker",
            f"or move all of ours at once, as for a second clone: {ports.OFFSET}=100 ./stack up --docker",
        ]
        if sys.platform == "darwin" and port.number in _TAKEN_BY_MAC:
            hints.append(_AIRPLAY)
        raise MachineNotReadyError(
            f"port {port.number} ({service.name}) is taken by {ports.owner(port.number)}", hint="\n".join(hints)
        )
