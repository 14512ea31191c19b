"""The servers of a test session: real ones, from the same table as the live stack, on free ports.

How it works: an instance in a folder of its own under the state folder. Each suite gets its own virtual host and
Redis database, so that no message of one suite reaches another. A session holds its instance's lock to its end;
what one left behind that was killed is cleaned up by the next, which finds the lock free.

What belongs here: the instance that tests run against.
"""

import base64
import json
import shutil
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from stack import lifecycle, ports, services
from stack.errors import StackError
from stack.instance import Instance
from stack.progress import Board
from stack.testing.plan import SUITES, Suite

_PREFIX = "test-"


class Servers:
    """Servers that start in the background: the checks before the suites need none."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._error: Exception | None = None
        self._lock = ExitStack()
        self._thread = threading.Thread(target=self._start)
        self._thread.start()

    def environment(self, suite: Suite) -> dict[str, str]:
        """Return the settings for a suite's tests, once the servers are ready.

        Raises:
            StackError: They did not start.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        _make_virtual_host(suite.name, self._instance)
        number = [other.name for other in SUITES].index(suite.name)
        return {**self._instance.values, "RABBITMQ_VHOST": suite.name, "REDIS_DB": str(number)}

    def give_up(self) -> None:
        """Let them be stopped, once they are ready or have failed."""
        self._thread.join()
        self._lock.close()

    def _start(self) -> None:
        numbers = ports.pick_free(len(services.PORTS))
        environ = {port.variable: str(number) for port, number in zip(services.PORTS, numbers, strict=True)}
        try:
            with Board((), Console(quiet=True)) as board:
                self._instance = lifecycle.up(self._instance, services.SERVERS, environ, board)
            self._lock.enter_context(lifecycle.exclusive(self._instance))
        except Exception as error:  # told to whoever asks for the servers
            self._error = error


@contextmanager
def started(home: Instance) -> Iterator[Servers]:
    """Start servers for the tests; stop them and delete their data at the end, whatever happens."""
    _clean_up(home)
    state = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home.state))
    state.chmod(0o755)  # the servers' accounts must enter it
    instance = Instance.at(home.repository, state, services.PORTS)
    servers = Servers(instance)
    try:
        yield servers
    finally:
        servers.give_up()
        _remove(instance)


def _clean_up(home: Instance) -> None:
    for lock in home.state.glob(f"{_PREFIX}*/run/lock"):
        try:
            _remove(Instance.at(home.repository, lock.parents[1], services.PORTS))
        except StackError:  # another session is at work in it
            continue


def _remove(instance: Instance) -> None:
    with Board((), Console(quiet=True)) as board:
        lifecycle.down(instance, board)
    shutil.rmtree(instance.state)


def _make_virtual_host(name: str, instance: Instance) -> None:
    login = f"{instance['RABBITMQ_USER']}:{instance['RABBITMQ_PASSWORD']}"
    headers = {
        "Authorization": "Basic " + base64.b64encode(login.encode()).decode(),
        "Content-Type": "application/json",
    }
    user = urllib.parse.quote(instance["RABBITMQ_USER"], safe="")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path, body in (
        (f"vhosts/{name}", {}),
        (f"permissions/{name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"}),
    ):
        url = f"http://127.0.0.1:{instance['RABBITMQ_MANAGEMENT_PORT']}/api/{path}"
        request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers, method="PUT")
        opener.open(request, timeout=10).close()
