"""The servers of a benchmark: PostgreSQL, Redis and RabbitMQ of its own, configured as by `./stack up`.

How it works: an instance in a folder of its own under the state folder, on free ports of loopback. Its lock is
held as long as the benchmark runs, so that no other command takes it for one that was killed; one that really was
killed is cleaned up by the next benchmark.

What belongs here: the instance that contenders run against.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from stack import lifecycle, ports, services
from stack.errors import StackError
from stack.instance import Instance
from stack.progress import Board

_PREFIX = "bench-"


@contextmanager
def started(home: Instance, console: Console) -> Iterator[Instance]:
    """Start the servers; stop them and delete their data at the end, whatever happens."""
    _clean_up(home)
    state = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home.state))
    state.chmod(0o755)  # the servers' accounts must enter it
    instance = Instance.at(home.repository, state, services.PORTS)
    numbers = ports.pick_free(len(services.PORTS))
    environ = {port.variable: str(number) for port, number in zip(services.PORTS, numbers, strict=True)}
    try:
        with Board((service.name for service in services.SERVERS), console) as board:
            instance = lifecycle.up(instance, services.SERVERS, environ, board)
        with lifecycle.exclusive(instance):
            yield instance
    finally:
        _remove(instance)


def _clean_up(home: Instance) -> None:
    for lock in home.state.glob(f"{_PREFIX}*/run/lock"):
        try:
            _remove(Instance.at(home.repository, lock.parents[1], services.PORTS))
        except StackError:  # another benchmark is at work in it
            continue


def _remove(instance: Instance) -> None:
    with Board((), Console(quiet=True)) as board:
        lifecycle.down(instance, board)
    shutil.rmtree(instance.state)
