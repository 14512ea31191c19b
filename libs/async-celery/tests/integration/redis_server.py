"""A Redis server of a test's own, to count, break and restart; reached by TCP, by TLS or by a Unix socket.

What belongs here: starting and stopping it, and looking behind a client's back.
"""

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis

PASSWORD = "a password for tests only"
_KEY_PREFIX = "celery-task-meta-"


class RedisServer:
    """A server on free ports of loopback. Unless `keeps`, what is stored is gone when it is killed."""

    def __init__(
        self, folder: Path, certificate: Path | None = None, key: Path | None = None, *, keeps: bool = False
    ) -> None:
        """Prepare it; without a certificate it knows no TLS."""
        self.port, self.tls_port = _free_port(), _free_port()
        self.certificate = certificate
        self.socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "log"
        self._command = [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)),
            *("--save", "", "--requirepass", PASSWORD, "--unixsocket", str(self.socket)),
            *("--appendonly", "yes" if keeps else "no"),
        ]
        if certificate is not None:
            self._command += [
                *("--tls-port", str(self.tls_port), "--tls-auth-clients", "no"),
                *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
                *("--tls-ca-cert-file", str(certificate)),
            ]
        self.client = redis.Redis(host="127.0.0.1", port=self.port, password=PASSWORD)

    def url(self, port: int | None = None, *, password: str = PASSWORD) -> str:
        return f"redis://:{password.replace(' ', '%20')}@127.0.0.1:{port or self.port}/0"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client.ping()
                break
            except redis.RedisError:
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.01)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def hang(self) -> None:
        """Let it answer nobody any more, until `go_on`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.client.close()
        self.kill()

    def store(self, task_id: str, result: Any = None, *, status: str = "SUCCESS") -> None:
        """Store a result and publish it, as Celery does."""
        self.store_raw(task_id, json.dumps({"status": status, "result": result, "task_id": task_id}).encode())

    def store_raw(self, task_id: str, payload: bytes) -> None:
        with self.client.pipeline() as pipe:
            pipe.set(_KEY_PREFIX + task_id, payload)
            pipe.publish(_KEY_PREFIX + task_id, payload)
            pipe.execute()

    def calls_of(self, command: str) -> int:
        """Return how often a command was carried out."""
        stats: Any = self.client.info("commandstats")
        calls: int = stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]
        return calls

    def channels(self) -> list[bytes]:
        channels: Any = self.client.pubsub_channels()
        return list(channels)

    def patterns(self) -> int:
        patterns: Any = self.client.pubsub_numpat()
        return int(patterns)

    def subscribers(self) -> list[str]:
        """Return the ids of the connections that subscribe."""
        clients: Any = self.client.client_list(_type="pubsub")
        return [client["id"] for client in clients]

    def callers(self) -> set[str]:
        """Return the ids of the connections that do not subscribe, but for the one that asks."""
        clients: Any = self.client.client_list(_type="normal")
        return {client["id"] for client in clients} - {str(self.client.client_id())}

    def connections(self) -> int:
        """Return how many connections there are, but for the one that asks."""
        clients: Any = self.client.client_list()
        return len(clients) - 1


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
