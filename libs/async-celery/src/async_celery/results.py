"""Results in Redis, as Celery keeps them there: read, pushed, marked, forgotten.

How it works: the address, the names of the keys and how long they live are what Celery's own Redis backend makes
of the app's configuration; that backend is built once, asked, and never connected. One connection takes commands
(`resp.Commands`), another one what is pushed (`push.py`). Both are made when they are first needed: a task can be
sent while Redis is down.

Settings of the app's that count: `result_backend` (redis://, rediss://, redis+socket://), the `redis_*` that say
how to log in, TLS, `redis_backend_health_check_interval`, `result_expires`, `result_chord_expires`,
`result_backend_transport_options={"global_keyprefix": …}`. On the workers: `result_serializer="json"`;
`result_extended` for names and attempts, `task_track_started` for STARTED.

What belongs here: which keys there are, and what is done to them.
"""

import asyncio
import contextlib
import json
import math
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from celery.app import backends
from celery.backends.redis import RedisBackend as CeleryRedisBackend
from celery.backends.redis import SentinelBackend
from redis.asyncio import SSLConnection
from redis.exceptions import RedisError

from async_celery import metas, tombstones
from async_celery.errors import BackendError, TransportError
from async_celery.observation import NOBODY, Observer
from async_celery.push import Expectation, Push
from async_celery.resp import Address, Command, Commands
from async_celery.task_ids import TaskIds
from async_celery.types import (
    DEADLINES,
    HISTORY,
    BackendCall,
    HistoryRow,
    Meta,
    NodeKind,
    TaskNode,
    TaskRecord,
    record_key,
)
from async_celery.types import Expectation as AnyExpectation

if TYPE_CHECKING:
    from celery import Celery

# Reading JSON keeps the loop busy for 20 to 45 ms per MiB when it is made of many small things, 1 ms when it is
# one text. This is twice what a result should have: 1 MiB fits with the arguments of its task around it
# (`result_extended`).
_MAX_RESULT_BYTES = 2 * 1024 * 1024
_HEALTH_CHECK_INTERVAL = 15.0  # s
_SCHEMES = ("redis", "rediss", "socket")


class RedisBackend:
    """Implements `types.Backend` over Redis."""

    def __init__(
        self,
        celery_app: "Celery",
        *,
        ids: TaskIds,
        backend_timeout: float,
        max_result_bytes: int = _MAX_RESULT_BYTES,
        observer: Observer = NOBODY,
    ) -> None:
        """Read the app's configuration. Opens no connection.

        Args:
            celery_app: the caller's; it is read, never changed.
            ids: what this client's tasks get their ids from.
            backend_timeout: in s, for each call.
            max_result_bytes: a larger result counts as a failure. For as long as it takes to decode one, the
                loop does nothing else.
            observer: is told of each read for those who wait.

        Raises:
            ValueError: the results are not in one Redis server.
        """
        backend = _celery_backend(celery_app)
        address = address_of(backend.connparams)
        self._expires: int | None = backend.expires or None
        self._chord_expires: int | None = backend.chord_expires or None
        self._key_of_task: Callable[[str], bytes] = backend.get_key_for_task
        self._key_of_group: Callable[..., bytes] = backend.get_key_for_group
        self._max_result_bytes = max_result_bytes
        self._commands = Commands(address, timeout=backend_timeout)
        self._push = Push(
            address,
            self._commands,
            ids=ids,
            key_prefix=backend.task_keyprefix,
            timeout=backend_timeout,
            health_check_interval=backend.connparams.get("health_check_interval") or _HEALTH_CHECK_INTERVAL,
            max_result_bytes=max_result_bytes,
            observer=observer,
        )
        self._closed = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def expect(self) -> Expectation | None:
        """See `types.Backend`."""
        return self._push.expect()

    def follow(
        self, task_ids: Sequence[str], expectation: AnyExpectation | None = None
    ) -> AsyncGenerator[list[tuple[str, Meta]]]:
        """See `types.Backend`.

        Raises:
            TransportError: the client was closed, before or meanwhile.
        """
        return self._push.follow(task_ids, expectation if isinstance(expectation, Expectation) else None)

    def ending(
        self, task_id: str, expectation: AnyExpectation | None = None, *, within: float | None = None
    ) -> Coroutine[Any, Any, Meta | None]:
        """See `types.Backend`.

        Raises:
            TransportError: as for `follow`.
        """
        mark = expectation if isinstance(expectation, Expectation) else None
        return self._push.ending(task_id, mark, within)

    async def read(self, task_id: str) -> tuple[Meta | None, TaskRecord | None]:
        """See `types.Backend`."""
        with self._operation():
            ((payload, record),) = await self._commands(("MGET", self._key_of_task(task_id), record_key(task_id)))
        try:
            return self._decode(task_id, payload), None if record is None else TaskRecord.decode(record)
        except (ValueError, KeyError, TypeError) as exc:
            raise BackendError(f"{record_key(task_id)} in Redis is no record of ours: {exc}") from exc

    async def read_many(self, task_ids: Sequence[str]) -> list[Meta | None]:
        """See `types.Backend`."""
        with self._operation():
            (payloads,) = await self._commands(("MGET", *map(self._key_of_task, task_ids)))
        results = []
        decoded = 0
        for task_id, payload in zip(task_ids, payloads, strict=True):
            results.append(self._decode(task_id, payload))
            decoded += len(payload or b"")
            if decoded > metas.DECODED_AT_ONCE:
                decoded = 0
                await asyncio.sleep(0)
        return results

    async def save(self, workflow_id: str, record: TaskRecord, calls: Sequence[BackendCall]) -> None:
        """See `types.Backend`.

        Raises:
            NotImplementedError: Celery asks for something that this backend does not know.
        """
        now, deadline = time.time(), record.deadline.timestamp()
        # It outlives the result of the last task that may start.
        lives = None if self._expires is None else max(0, math.ceil(deadline - now)) + self._expires
        commands: list[Command] = [
            _set(record_key(workflow_id), record.encode(), lives),
            ("ZADD", DEADLINES, str(deadline), workflow_id),
        ]
        if self._expires is not None:
            # Where no reaper runs, nobody else takes out those whose records have gone.
            commands.append(("ZREMRANGEBYSCORE", DEADLINES, "-inf", f"({now - self._expires}"))
        if record.tree.kind is NodeKind.GROUP:
            commands.append(self._set_group(workflow_id, _group_as_tuple(record.tree)))
        for call in calls:
            commands += self._commands_for(call)
        with self._operation():
            await self._commands(*commands)

    async def bury(self, task_ids: Sequence[str], *, terminate: bool) -> bool:
        """See `types.Backend`."""
        value = tombstones.STOP if terminate else tombstones.LET_RUN
        with self._operation():
            await self._commands(*(_set(tombstones.key_of(id_), value, self._expires) for id_ in task_ids))
        return True

    async def mark_revoked(self, task_ids: Sequence[str]) -> None:
        """See `types.Backend`."""
        revoked = {self._key_of_task(task_id): metas.revoked(task_id) for task_id in task_ids}
        with self._operation():
            answers = await self._commands(
                *((*_set(key, payload, self._expires), "NX") for key, payload in revoked.items())
            )
            # As workers do with every end that they store: who waits is to hear of it, and the history to tell.
            marked = [id_ for id_, answer in zip(task_ids, answers, strict=True) if answer is not None]
            commands: list[Command] = []
            for task_id in marked:
                key = self._key_of_task(task_id)
                entry = ("id", task_id, "state", "REVOKED", "finished", str(time.time()))
                commands += [("PUBLISH", key, revoked[key]), ("XADD", HISTORY, "*", *entry)]
            await self._commands(*commands)

    async def forget(self, task_ids: Sequence[str], *, record_of: str) -> None:
        """See `types.Backend`."""
        with self._operation():
            await self._commands(("DEL", *map(self._key_of_task, task_ids), record_key(record_of)))

    async def history(self, *, since: str | None, before: str | None, count: int) -> list[HistoryRow]:
        """See `types.Backend`."""
        newest = "+" if before is None else f"({before}"
        with self._operation():
            (rows,) = await self._commands(("XREVRANGE", HISTORY, newest, since or "-", "COUNT", count))
        return [(id_.decode(), _pairs(fields)) for id_, fields in rows]

    async def note(self, times: Mapping[str, Mapping[str, float]]) -> None:
        """See `types.Backend`."""
        commands: list[Command] = []
        for task_id, of_task in times.items():
            key = _times_key(task_id)
            commands += [("HSETNX", key, what, f"{seconds:.6f}") for what, seconds in of_task.items()]
            if self._expires is not None:
                commands.append(("EXPIRE", key, self._expires))
        with self._operation():
            await self._commands(*commands)

    async def noted(self, task_id: str) -> dict[str, float]:
        """See `types.Backend`."""
        with self._operation():
            (fields,) = await self._commands(("HGETALL", _times_key(task_id)))
        return {what: float(seconds) for what, seconds in _pairs(fields).items()}

    async def ping(self) -> None:
        """See `types.Backend`."""
        with self._operation():
            await self._commands(("PING",))

    async def aclose(self) -> None:
        """See `types.Backend`."""
        self._closed = True
        # Each call ends by its timeout.
        await self._idle.wait()
        await self._push.aclose()
        await self._commands.aclose()

    def _decode(self, task_id: str, payload: bytes | None) -> Meta | None:
        if payload is None:
            return None
        return metas.decode(task_id, payload, max_bytes=self._max_result_bytes)

    def _commands_for(self, call: BackendCall) -> list[Command]:
        """Return what Celery's Redis backend would send when it is called so."""
        match call.method, call.args:
            case "set_chord_size", (group_id, size):
                # What a run under the same id left behind would keep the chord's body from being sent.
                claim, size_key = self._key_of_group(group_id, ".c"), self._key_of_group(group_id, ".s")
                return [("DEL", claim), _set(size_key, size, self._chord_expires)]
            case "_set_chord_key", (key, value):
                return [_set(key, value, self._chord_expires)]
            case "save_group", (group_id, result):
                return [self._set_group(group_id, result.as_tuple())]
            case _:
                raise NotImplementedError(f"Celery asks its result backend for {call.method}{call.args!r:.100}")

    def _set_group(self, group_id: str, as_tuple: Any) -> Command:
        return _set(self._key_of_group(group_id), json.dumps({"result": as_tuple}), self._expires)

    @contextlib.contextmanager
    def _operation(self) -> Iterator[None]:
        """Refuse to begin when closed; hold up closing until the end."""
        if self._closed:
            raise TransportError("the AsyncCelery of this handle is closed: make a new one")
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()


def _celery_backend(celery_app: "Celery") -> Any:
    """Return Celery's own backend for the app, to be asked but never connected.

    Raises:
        ValueError: it is not one for a single Redis server.
    """
    configured = celery_app.backend_cls or celery_app.conf.result_backend
    supported = "set result_backend to the redis://, rediss:// or redis+socket:// URL of one server"
    try:
        by_url: Any = backends.by_url
        cls, url = by_url(configured, celery_app.loader)
    except Exception as exc:
        raise ValueError(f"Celery knows no result backend of this kind ({exc}): {supported}") from exc
    if not issubclass(cls, CeleryRedisBackend) or issubclass(cls, SentinelBackend):
        raise ValueError(  # noqa: TRY004 (the setting's value is wrong, not the argument's type)
            f"results are pushed by a single Redis server, not by a {cls.__name__}: {supported}"
        )
    if url is not None and url.partition("://")[0] not in _SCHEMES:
        # Celery takes redis+cluster:// for a redis:// with the address cluster://.
        raise ValueError(f"this is not the address of a single Redis server: {supported}")
    if url is not None and ";" in url:
        raise ValueError(f"there are several addresses in result_backend: {supported}")
    return cls(app=celery_app, url=url)


def address_of(params: dict[str, Any]) -> Address:
    """Read redis-py's connection parameters as Celery puts them together."""
    provider = params.get("credential_provider")

    async def credentials() -> tuple[str, ...]:
        if provider is not None:
            try:
                return tuple(await provider.get_credentials_async())
            except Exception as exc:
                raise ConnectionError(f"no credentials to log in with: {exc}") from exc
        username, password = params.get("username"), params.get("password")
        return (username, password or "") if username else (password,) if password else ()

    tls: Callable[[], ssl.SSLContext] | None = None
    if issubclass(params.get("connection_class", object), CeleryRedisBackend.connection_class_ssl):
        # Never connected: it knows what each of redis-py's settings means. The context reads files.
        settings = {name: value for name, value in params.items() if name.startswith("ssl_")}
        try:
            tls = cache(SSLConnection(**settings).ssl_context.get)
        except (TypeError, RedisError) as exc:
            raise ValueError(f"these TLS settings are not for asyncio's connections: {exc}") from exc
    return Address(
        host=params.get("host", ""),
        port=int(params.get("port", 0)),
        path=params.get("path"),
        db=int(params["db"]),
        client_name=params.get("client_name"),
        credentials=credentials,
        tls=tls,
    )


def _set(key: str | bytes, value: str | bytes | int, expires: int | None) -> Command:
    return ("SET", key, value) if expires is None else ("SET", key, value, "EX", expires)


def _times_key(task_id: str) -> str:
    return f"task-times:{task_id}"


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    """Return a reply of names and values in turn; a name or value that is no UTF-8 is not ours."""
    texts = [item.decode(errors="replace") for item in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _group_as_tuple(node: TaskNode) -> Any:
    """Return what Celery's `GroupResult.as_tuple` says of this tree: (id, parent) and the members of a group."""
    members = [_group_as_tuple(child) for child in node.children] if node.kind is NodeKind.GROUP else None
    return (node.id, None), members
