"""A PostgreSQL server of a test's own, to be frozen.

How it works: it listens on a free port of loopback, for everybody who reaches it, in a folder that is gone at the
end. It will not run as root: then it runs as `postgres`, the user of its packages. Its processes are each in a
group of their own, so a signal goes to all of them one by one.

What belongs here: starting, stopping, freezing.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")  # one folder per major version; its programs are not on PATH
_USER = "postgres"


class PostgresServer:
    """The server. It forgets nothing, and syncs nothing to the disk."""

    def __init__(self, folder: Path, port: int) -> None:
        """Make its files and start it, without waiting until it answers."""
        self.port = port
        self._log = folder / "log"
        data = folder / "data"
        prefix: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(folder, _USER, _USER)
            prefix = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
        initdb = [_program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*prefix, *initdb, "--no-sync"], check=True, capture_output=True, timeout=60, cwd=folder)
        postgres = [_program("postgres"), "-D", str(data), "-p", str(port), "-F"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*prefix, *postgres, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
                stdout=log,
                stderr=log,
                cwd=folder,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 20
        while b"ready to accept connections" not in self._log.read_bytes():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    @property
    def settings(self) -> dict[str, str]:
        """The settings of whoever is to work on it."""
        return {
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(self.port),
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": "not asked for",
            "POSTGRES_DB": "postgres",
        }

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have all its processes stand still: the kernel accepts connections, nobody answers."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = self._process.pid  # the first to stop: it makes the others
        os.kill(pid, number)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(ProcessLookupError):  # as soon as it runs again, one that nobody needs any more ends
                os.kill(int(child), number)

    def close(self) -> None:
        self._process.send_signal(signal.SIGINT)  # "fast shutdown"
        self._process.wait(20)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server with an empty database, stop it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    # Not pytest's tmp_path: only its own user may enter that.
    with tempfile.TemporaryDirectory(prefix="api-tests-postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder), port)
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.close()


def _program(name: str) -> str:
    versions = sorted((int(place.name) for place in _DEBIAN.glob("[0-9]*")), reverse=True)
    return str(_DEBIAN / str(versions[0]) / "bin" / name) if versions else name
