"""Redis commands with little around them: packed, sent, answered.

How it works: redis-py's client spends more time on one command than Redis and the network do together. Its
connections do what is hard (TLS, logging in, health checks, hiredis) and are used here directly: each thread of
each process has one, so nothing has to be locked, and a forked child never writes into its parent's. A
connection on which a call was cut short, by whatever exception, is closed: nobody reads another one's answer.
With the pool `asyncio`, the calls of all tasks share one connection of asyncio's (`beside.py`).

What belongs here: bringing commands to Redis. What they say is `backend.py`'s.
"""

import os
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from hiredis import ReplyError
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from async_celery.errors import BackendError
from async_celery.results import address_of
from async_celery.worker.beside import SharedCommands
from async_celery.worker.scripts import Script
from async_celery.worker.waiting import may_wait, wait

Argument = str | bytes | int | float
Command = tuple[Argument, ...]

PASSING = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, ReadOnlyError)
"""What says that Redis is away, full, or takes no writes: the same command will do later. Others never will."""


_TIMEOUT = 5.0  # s, where none is set
_REFUSALS: dict[str, type[RedisError]] = {
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "LOADING": RedisConnectionError,
}


class Connection:
    """Takes commands from any thread of any process."""

    def __init__(self, client: "Redis") -> None:
        """Prepare one to the same server, with the same settings, as `client`. Opens nothing."""
        self._pool = client.connection_pool
        self._own = threading.local()

    def __call__(self, *commands: Command) -> list[Any]:
        """Send commands in one write; return their answers.

        A connection that turns out to be closed is made anew, once.

        Raises:
            RedisError: the server does not answer, or refuses one of them. All of them may have been done.
        """
        if may_wait():
            return self._side_by_side(commands)
        connection = self._connection()
        packed = b"".join([part for command in commands for part in connection.pack_command(*command)])
        try:
            answers = self._exchange(connection, packed, len(commands))
        except RedisTimeoutError:
            raise
        except RedisConnectionError:
            answers = self._exchange(connection, packed, len(commands))
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer
        return answers

    def evaluate(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        """Run a script in one round trip, two when the server does not know it yet.

        Raises:
            RedisError: as `__call__`.
        """
        try:
            (answer,) = self(("EVALSHA", script.sha, len(keys), *keys, *arguments))
        except NoScriptError:
            (answer,) = self(("EVAL", script.text, len(keys), *keys, *arguments))
        return answer

    def _side_by_side(self, commands: tuple[Any, ...]) -> list[Any]:
        """Do the same over asyncio, where many ask at once.

        Raises:
            RedisError: as `__call__`.
        """
        beside = self.beside
        try:
            try:
                return wait(beside.ask(*commands))
            except ConnectionError as exc:
                if beside.is_hung:
                    raise RedisTimeoutError(str(exc)) from exc
                return wait(beside(*commands))
        except ReplyError as exc:
            raise _as_redis_py(exc) from exc
        except BackendError as exc:
            raise _as_redis_py(exc.__cause__) from exc

    @cached_property
    def beside(self) -> SharedCommands:
        """That of the event loop of the pool `asyncio`."""
        settings = self._pool.connection_kwargs
        return SharedCommands(
            address_of({**settings, "connection_class": self._pool.connection_class}),
            timeout=settings.get("socket_timeout") or _TIMEOUT,
        )

    def _connection(self) -> Any:
        """Return this thread's connection."""
        own = self._own
        if getattr(own, "pid", None) != os.getpid():
            own.connection, own.pid = self._pool.make_connection(), os.getpid()
        return own.connection

    def _exchange(self, connection: Any, packed: bytes, count: int) -> list[Any]:
        """Send what is packed, read as many answers; an error that the server answers with is one of them."""
        try:
            connection.send_packed_command([packed])
            answers = []
            for _ in range(count):
                try:
                    answers.append(connection.read_response(disable_decoding=True, disconnect_on_error=False))
                except (RedisConnectionError, RedisTimeoutError):
                    raise
                except RedisError as answer:
                    answers.append(answer)
        except BaseException:
            # Also what is raised into the thread from outside: a time limit, a cancellation.
            connection.disconnect()
            raise
        return answers


def _as_redis_py(exc: BaseException | None) -> RedisError:
    """Return the error that redis-py would have raised."""
    match exc:
        case TimeoutError():
            return RedisTimeoutError("the server does not answer")
        case ReplyError():
            code, _, text = str(exc).partition(" ")
            refused = _REFUSALS.get(code)
            return ResponseError(str(exc)) if refused is None else refused(text)
    return RedisConnectionError(str(exc))
