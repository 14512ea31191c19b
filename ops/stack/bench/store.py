"""Redis seen from outside: how many commands it was given, and how many results it holds.

How it works: one socket and Redis' own protocol, of which the few kinds of answers that are needed are read.

What belongs here: what the rows ask of Redis.
"""

import re
import socket
from types import TracebackType
from typing import Self

from stack.bench.contenders import ContenderError
from stack.instance import Instance

_TIMEOUT = 10.0  # s
_CALLS = re.compile(r"^cmdstat_([^:]+):calls=(\d+)", re.MULTILINE)
_VERSION = re.compile(r"^redis_version:(\S+)", re.MULTILINE)
_OWN = ("info", "auth", "select", "flushdb", "dbsize", "zcard", "client", "hello", "config")
"""Commands that this file gives, or that only belong to connecting: not counted as a contender's."""


class Store:
    """A connection of the harness; a context manager."""

    def __init__(self, instance: Instance) -> None:
        host, port = instance["REDIS_HOST"], instance.port("REDIS_PORT")
        self.url = f"redis://:{instance['REDIS_PASSWORD']}@{host}:{port}/{instance['REDIS_DB']}"
        self._socket = socket.create_connection((host, port), _TIMEOUT)
        self._answers = self._socket.makefile("rb")
        self._ask("AUTH", instance["REDIS_PASSWORD"])
        self._ask("SELECT", instance["REDIS_DB"])
        found = _VERSION.search(self._ask("INFO", "server"))
        self.version = found[1] if found else "unknown"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers.close()
        self._socket.close()

    def commands(self) -> int:
        """Return how many commands Redis has been given since it started, ours not counted."""
        return commands(self._ask("INFO", "commandstats"))

    def keys(self) -> int:
        """Return how many keys there are."""
        return int(self._ask("DBSIZE"))

    def members(self, key: str) -> int:
        """Return how many members a sorted set has."""
        return int(self._ask("ZCARD", key))

    def empty(self) -> None:
        """Delete every key."""
        self._ask("FLUSHDB")

    def _ask(self, *words: str) -> str:
        encoded = [word.encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)]
        self._socket.sendall(b"".join(parts))
        kind, text = (line := self._answers.readline().decode().strip())[:1], line[1:]
        if kind == "$":
            return self._answers.read(int(text) + 2).decode()
        if kind not in ("+", ":"):
            raise ContenderError(f"Redis answers {line or 'nothing'} to {words[0]}")
        return text


def commands(statistics: str) -> int:
    """Return the number of calls in the text of INFO commandstats, ours not counted."""
    return sum(int(calls) for name, calls in _CALLS.findall(statistics) if name.partition("|")[0] not in _OWN)
