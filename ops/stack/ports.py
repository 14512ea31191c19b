"""Ports: what a service's port is, whether it is free, and who has it when it is not.

How it works: a port is busy when binding to it fails; its owner is found in the kernel's table of listening
sockets, which shows other users' processes only to root.

What belongs here: everything about port numbers on this machine.
"""

import random
import socket
from dataclasses import dataclass

import psutil

from stack.errors import MachineNotReadyError

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


def owner(number: int) -> str:
    """Name the process that listens on the port, as far as this user may see it."""
    for connection in psutil.net_connections("tcp"):
        if not connection.laddr or connection.laddr.port != number:
            continue
        if connection.status == psutil.CONN_LISTEN and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                break
    return f"a process of another user (to see it: sudo ss -ltnp 'sport = :{number}')"


def require_free(port: Port, number: int, host: str = "127.0.0.1") -> None:
    """Make sure that a service can have its port.

    Raises:
        MachineNotReadyError: Something else has it; names the owner and the variable that moves our port.
    """
    if is_busy(number, host):
        raise MachineNotReadyError(
            f"port {number} ({port.purpose}) is taken by {owner(number)}",
            hint=f"stop that program, or move ours: {port.variable}={number + 10} ./stack up",
        )


def pick_free(count: int) -> list[int]:
    """Return `count` different ports on which nothing listens now."""
    candidates = random.sample(_TEST_PORTS, len(_TEST_PORTS))  # parallel test runs should not collide
    free = (number for number in candidates if not is_busy(number))
    return [next(free) for _ in range(count)]
