"""Ports: what a service's port is, whether it is free, and who has it when it is not.

How it works: a port is busy when binding to it fails; its owner is found in the kernel's table of listening
sockets, which shows other users' processes only to root.

What belongs here: everything about port numbers on this machine.
"""

import random
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from stack.errors import MachineNotReadyError

OFFSET = "STACK_PORT_OFFSET"
"""Variable with what is added to the default of every port that its own variable does not move."""

_TEST_PORTS = range(20000, 32000)
"""Below the range from which the kernel gives ports to outgoing connections (`ip_local_port_range`, 32768 up):
a port picked here stays free until the server that it is meant for binds it."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port that a service listens on, and the variable that moves it."""

    variable: str
    default: int
    purpose: str


def is_busy(number: int, host: str = "127.0.0.1") -> bool:
    """Say whether something listens on the port already."""
    with socket.socket() as probe:
        # Without it, connections of a server that has just ended (TIME_WAIT) would count as a busy port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except PermissionError:  # below 1024, not root: the server will say so itself
            return False
        except OSError:
            return True
    return False


def listener(number: int) -> int | None:
    """Return the pid of the process that listens on the port, as far as this user may see it."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # a Mac tells root only
        return None
    for connection in connections:
        if connection.laddr and connection.laddr.port == number and connection.status == psutil.CONN_LISTEN:
            return connection.pid
    return None


def owner(number: int) -> str:
    """Name the process that listens on the port, as far as this user may see it."""
    pid = listener(number)
    with suppress(psutil.NoSuchProcess):
        if pid is not None:
            return f"{psutil.Process(pid).name()} (pid {pid})"
    return f"a process of another user (to see it: sudo ss -ltnp 'sport = :{number}')"


def require_free(port: Port, values: Mapping[str, str]) -> None:
    """Make sure that a service can have its port.

    Args:
        port: The port.
        values: The instance's settings.

    Raises:
        MachineNotReadyError: Something else has it; names the owner and the variable that moves our port.
    """
    number = int(values[port.variable])
    if is_busy(number, values["API_HOST"] if port.variable == "API_PORT" else "127.0.0.1"):
        offset = int(values[OFFSET]) + 100
        raise MachineNotReadyError(
            f"port {number} ({port.purpose}) is taken by {owner(number)}",
            hint=f"stop that program, or move ours: {port.variable}={number + 10} ./stack up\n"
            f"or move all of ours at once, as for a second clone: {OFFSET}={offset} ./stack up",
        )


def pick_free(count: int) -> list[int]:
    """Return `count` different ports on which nothing listens now."""
    candidates = random.sample(_TEST_PORTS, len(_TEST_PORTS))  # parallel test runs should not collide
    free = (number for number in candidates if not is_busy(number))
    return [next(free) for _ in range(count)]
