"""Other brokers and result backends than RabbitMQ and Redis: Celery's own blocking code, in threads.

How it works: this is the way that `sync_to_async(send_task)` and a poll of `AsyncResult` go, made bounded. Each
call runs in a thread of our own pool (`_Threads`), one pool for the broker and one for the backend, so that an
outage of one does not use up the threads of the other. `asyncio` bounds how long the caller waits, socket
timeouts how long the thread is kept. Waiting for a result is a sleep between two reads, 0.1 s at first and 1.5
times as long after each, up to 2 s: it holds no thread.

What is weaker than with RabbitMQ and Redis, because these brokers and backends have no more to give:

- "confirmed" means that the broker's client returned without an error; there are no returned messages;
- results come late by up to a pause, and watching may miss what was stored and replaced within one;
- `mark_revoked` reads before it writes: a failure that a task stores in between is overwritten, a success is not;
- there are no tombstones: a cancellation is a broadcast, which workers that start later never hear; it has a
  running task's process killed, and comes too late when that has the next task by then;
- nobody sweeps: a workflow whose worker died at the wrong moment has no end but its reader's deadline.

Results are read through the backend's own class, with two changes: exceptions stay names and texts, and a pickle
(the database backend of workers before Celery 5.7 writes them) may hold plain data only.

What belongs here: everything that calls kombu or a Celery backend to do I/O, and the translation of its errors.
"""

import asyncio
import contextlib
import io
import pickle
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult, GroupResult
from kombu import Connection
from kombu.exceptions import EncodeError
from kombu.messaging import Producer
from redis.exceptions import TimeoutError as RedisTimeoutError

from async_celery.backoff import Backoff
from async_celery.errors import (
    BackendError,
    PayloadError,
    PublishError,
    PublishTimeout,
    TransportError,
    Unsupported,
)
from async_celery.metas import ending_of
from async_celery.observation import NOBODY, Observer, PublishOutcome
from async_celery.recording import CeleryRecorder, build_backend
from async_celery.types import (
    BackendCall,
    Expectation,
    HistoryRow,
    Meta,
    NodeKind,
    Publication,
    TaskMessage,
    TaskNode,
    TaskRecord,
    TaskState,
)

P = ParamSpec("P")
T = TypeVar("T")

# A message or a result takes a few ms, on a busy machine up to 20: so many of them get one timeout more.
_CALLS_PER_TIMEOUT = 100

_POLLING = Backoff(first=0.1, factor=1.5, limit=2)


class ThreadsBroker:
    """Implements `types.Broker` with kombu's producers, one for each thread."""

    def __init__(
        self,
        celery_app: Celery,  # noqa: ARG002 (the brokers' common signature; the recorder has its configuration)
        *,
        recorder: CeleryRecorder,
        publish_timeout: float,
        max_threads: int,
        observer: Observer = NOBODY,
    ) -> None:
        """Open no connection yet.

        Args:
            celery_app: the caller's.
            recorder: made from it.
            publish_timeout: in s, for each answer of the broker.
            max_threads: how many calls may be under way; each has a connection of its own.
            observer: is told what becomes of messages; those of a workflow end together.
        """
        self._recorder = recorder
        self._observer = observer
        self._publish_timeout = publish_timeout
        self._threads = _Threads("async-celery-broker", max_threads)
        self._of_this_thread = threading.local()
        self._links: list[_Link] = []

    async def publish(self, message: TaskMessage) -> None:
        """See `types.Broker`."""
        with self._observed([(message.name, message.queue)]):
            await self._run(lambda: self._link().publish(self._recorder.task(message)), task_id=message.task_id)

    async def publish_all(
        self, publications: Sequence[Publication], *, after: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """See `types.Broker`."""
        if after is not None:
            await after()

        def publish() -> None:
            link = self._link()
            for publication in publications:
                link.publish(publication)

        options = [publication.options for publication in publications]
        with self._observed([(each["headers"]["task"], each["routing_key"]) for each in options]):
            await self._run(publish, calls=len(publications))

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool) -> None:
        """See `types.Broker`."""
        broadcast = self._recorder.revocation(task_ids, terminate=terminate)
        await self._run(lambda: self._link().publish(broadcast))

    async def ping(self) -> None:
        """See `types.Broker`."""
        await self._run(lambda: self._link().ping())

    async def aclose(self) -> None:
        """See `types.Broker`."""
        await self._threads.aclose()
        while self._links:
            self._links.pop().close()

    @contextlib.contextmanager
    def _observed(self, messages: Sequence[tuple[str, str]]) -> Iterator[None]:
        """Tell the observer how sending these ends: the task's name and the queue of each."""
        started = time.perf_counter()
        outcome = PublishOutcome.OK
        try:
            yield
        except BaseException as exc:
            outcome = PublishOutcome.of(exc)
            raise
        finally:
            for task, queue in messages:
                self._observer.published(task, queue, outcome, time.perf_counter() - started, 0)

    def _link(self) -> "_Link":
        """Return this thread's."""
        if not hasattr(self._of_this_thread, "link"):
            self._of_this_thread.link = _Link(
                # Fewer retries than kombu would make: the caller decides whether to send again.
                self._recorder.app.connection_for_write(
                    connect_timeout=self._publish_timeout,
                    transport_options={
                        "max_retries": 0,
                        # Redis: a connection that hangs must free its thread.
                        "socket_timeout": self._publish_timeout,
                        "socket_connect_timeout": self._publish_timeout,
                    },
                )
            )
            self._links.append(self._of_this_thread.link)
        link: _Link = self._of_this_thread.link
        return link

    async def _run(self, call: Callable[[], object], *, task_id: str | None = None, calls: int = 1) -> None:
        within = self._publish_timeout * (1 + (calls - 1) / _CALLS_PER_TIMEOUT)
        try:
            async with asyncio.timeout(within):
                await self._threads.run(call)
        except TimeoutError as exc:
            raise _publish_timeout(within, task_id) from exc


class _Link:
    """A connection and its producer: used by one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Any = connection
        self._producer = Producer(connection, auto_declare=False)

    def publish(self, publication: Publication) -> None:
        """Publish, and return when the broker's client has not complained.

        Raises:
            PublishError, PayloadError: it has.
        """
        with self._translated(publication.task_id):
            self._reconnecting(lambda: self._producer.publish(publication.body, **publication.options))

    def ping(self) -> None:
        """Open a channel, which is a round trip where the transport has a server.

        Raises:
            PublishError: it did not answer.
        """

        def open_channel() -> None:
            self._connection.ensure_connection(max_retries=0)
            self._connection.channel().close()

        with self._translated(None):
            self._reconnecting(open_channel)

    def close(self) -> None:
        """Close politely where the broker still answers."""
        with contextlib.suppress(Exception):  # each transport raises its own; there is nobody left to tell
            self._connection.close()

    def _reconnecting(self, call: Callable[[], object]) -> None:
        """Call; and once more, on a new connection, when this one turns out to have died meanwhile."""
        was_connected = self._connection.connected
        try:
            call()
        except (TimeoutError, RedisTimeoutError):
            # Not dead but silent: a second attempt would take as long, and nobody waits for it any more.
            raise
        except self._connection.recoverable_connection_errors:
            if not was_connected:
                raise
            self._connection.collect()
            self._producer.revive(self._connection)
            call()

    @contextlib.contextmanager
    def _translated(self, task_id: str | None) -> Iterator[None]:
        try:
            yield
        except (PayloadError, EncodeError, TypeError, ValueError) as exc:
            # The last two come from a transport that wraps the message once more.
            raise PayloadError(f"the message cannot be serialised: {exc}") from exc
        except Exception as exc:
            # Every transport raises what its own library raises. A connection that failed is not used again.
            self._connection.collect()
            self._producer.revive(self._connection)
            if isinstance(exc, TimeoutError | RedisTimeoutError):
                raise _publish_timeout(self._connection.connect_timeout, task_id) from exc
            raise PublishError(f"the broker is not reachable or refused: {exc}", task_id=task_id) from exc


class ThreadsBackend:
    """Implements `types.Backend` with any backend of Celery's that can be read more than once."""

    def __init__(
        self, celery_app: Celery, *, backend_timeout: float, max_threads: int, observer: Observer = NOBODY
    ) -> None:
        """Build the backend. Opens no connection.

        Args:
            celery_app: the caller's.
            backend_timeout: in s, for each answer of the backend.
            max_threads: how many calls may be under way.
            observer: is told of each read for those who wait.

        Raises:
            ValueError: the backend hands out a result only once, to one reader.
        """
        self._observer = observer
        self._app = _reader_app(celery_app)
        self._backend: Any = self._app.backend
        self._backend_timeout = backend_timeout
        self._threads = _Threads("async-celery-backend", max_threads)

    def expect(self) -> Expectation:
        """See `types.Backend`."""
        return None

    async def ending(
        self, task_id: str, expectation: Expectation | None = None, *, within: float | None = None
    ) -> Meta | None:
        """See `types.Backend`."""
        return await ending_of(self.follow((task_id,), expectation), within)

    async def follow(
        self,
        task_ids: Sequence[str],
        expectation: Expectation | None = None,  # noqa: ARG002
    ) -> AsyncGenerator[list[tuple[str, Meta]]]:
        """See `types.Backend`."""
        seen: dict[str, Meta] = {}
        unfinished = list(task_ids)
        for pause in _POLLING.pauses():
            with contextlib.suppress(BackendError):
                if unfinished:
                    self._observer.polled()
                metas = await self.read_many(unfinished)
                news = [
                    (id_, meta)
                    for id_, meta in zip(unfinished, metas, strict=True)
                    if meta is not None and meta != seen.get(id_)
                ]
                if news:
                    seen.update(news)
                    unfinished = [id_ for id_ in unfinished if not _is_final(seen.get(id_))]
                    yield news
            await asyncio.sleep(pause)

    async def read(self, task_id: str) -> tuple[Meta | None, TaskRecord | None]:
        """See `types.Backend`."""

        def read() -> tuple[Meta | None, TaskRecord | None]:
            record = self._read(_record_id(task_id))
            return self._read(task_id), None if record is None else TaskRecord.decode(record["result"])

        return await self._run(read)

    async def read_many(self, task_ids: Sequence[str]) -> list[Meta | None]:
        """See `types.Backend`."""
        return await self._run(lambda: [self._read(id_) for id_ in task_ids], calls=len(task_ids))

    async def save(self, workflow_id: str, record: TaskRecord, calls: Sequence[BackendCall]) -> None:
        """See `types.Backend`."""

        def save() -> None:
            # Stored as if it were a task's result: the one thing that every backend can keep.
            self._backend.store_result(_record_id(workflow_id), record.encode(), TaskState.SUCCESS.value)
            if record.tree.kind is NodeKind.GROUP:
                self._backend.save_group(workflow_id, self._group_result(record.tree))
            for call in calls:
                getattr(self._backend, call.method)(*call.args)

        await self._run(save)

    async def bury(self, task_ids: Sequence[str], *, terminate: bool) -> bool:  # noqa: ARG002 (the protocol's)
        """See `types.Backend`. Workers look for no tombstone here."""
        return False

    async def mark_revoked(self, task_ids: Sequence[str]) -> None:
        """See `types.Backend`."""

        def mark() -> None:
            for task_id in task_ids:
                if self._read(task_id) is None:
                    self._backend.store_result(task_id, TaskRevokedError("revoked"), TaskState.REVOKED.value)

        await self._run(mark, calls=len(task_ids))

    async def forget(self, task_ids: Sequence[str], *, record_of: str) -> None:
        """See `types.Backend`."""

        def forget() -> None:
            for id_ in (*task_ids, _record_id(record_of)):
                self._backend.forget(id_)

        await self._run(forget, calls=len(task_ids))

    async def history(
        self,
        *,
        since: str | None,  # noqa: ARG002 (there is nothing to read)
        before: str | None,  # noqa: ARG002
        count: int,  # noqa: ARG002
    ) -> list[HistoryRow]:
        """See `types.Backend`.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("only Redis keeps a history of tasks: set result_backend to a redis:// URL")

    async def note(self, times: Mapping[str, Mapping[str, float]]) -> None:  # noqa: ARG002
        """See `types.Backend`.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("only Redis keeps notes of times: set result_backend to a redis:// URL")

    async def noted(self, task_id: str) -> dict[str, float]:  # noqa: ARG002
        """See `types.Backend`."""
        return {}

    async def ping(self) -> None:
        """See `types.Backend`."""
        await self._run(lambda: self._read("ping"))

    async def aclose(self) -> None:
        """See `types.Backend`."""
        await self._threads.aclose()
        if sessions := getattr(self._backend, "session_manager", None):
            sessions.invalidate(self._backend.url)

    def _read(self, task_id: str) -> Meta | None:
        try:
            meta: Meta = self._backend.get_task_meta(task_id, cache=False)
        except _Unreadable as exc:
            error = {"exc_type": "UnreadableResult", "exc_message": [str(exc)]}
            return {"status": TaskState.FAILURE.value, "task_id": task_id, "result": error}
        return None if meta["status"] == "PENDING" else meta

    def _group_result(self, node: TaskNode) -> GroupResult:
        members: list[Any] = [
            self._group_result(child) if child.kind is NodeKind.GROUP else AsyncResult(child.id, app=self._app)
            for child in node.children
        ]
        return GroupResult(node.id, members, app=self._app)

    async def _run(self, call: Callable[[], T], *, calls: int = 1) -> T:
        within = self._backend_timeout * (1 + calls / _CALLS_PER_TIMEOUT)
        try:
            async with asyncio.timeout(within):
                return await self._threads.run(call)
        except TransportError:
            raise
        except TimeoutError as exc:
            raise BackendError(f"the result backend did not answer within {within:g} s") from exc
        except Exception as exc:
            # Every backend raises what its own library raises.
            raise BackendError(f"the result backend is not reachable or refused: {exc}") from exc


class _Threads:
    """A thread pool that takes only as much as it has threads for; the rest waits on the loop.

    A burst of calls handed to the pool at once would stretch that one iteration of the loop by all the work of
    the threads that it wakes: seen, 380 ms for 400 sends; this way, 30 ms.
    """

    def __init__(self, name: str, size: int) -> None:
        self._executor = ThreadPoolExecutor(size, name)
        self._free = asyncio.Semaphore(size)
        self._closed = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call in a thread. Cancelled, it returns at once; the thread ends the call.

        Raises:
            TransportError: closed.
        """
        if self._closed:
            raise TransportError("the AsyncCelery of this handle is closed: make a new one")
        self._under_way += 1
        self._idle.clear()
        try:
            async with self._free:
                in_thread = sync_to_async(call, thread_sensitive=False, executor=self._executor)
                return await in_thread(*args, **kwargs)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def aclose(self) -> None:
        """Begin nothing more; wait for what has begun. Its timeouts end it."""
        self._closed = True
        await self._idle.wait()
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)


class _Unreadable(Exception):  # noqa: N818 (never leaves this module)
    """A stored result is neither JSON nor plain data."""


class _PlainResults:
    """Goes before a backend's own class: results are plain data, whatever is stored."""

    def exception_to_python(self, exc: Any) -> Any:
        """Leave an exception the name and the texts that it is stored as; Celery would rebuild it."""
        return exc

    def decode(self, payload: Any) -> Any:
        """Read JSON.

        Raises:
            _Unreadable: it is something else.
        """
        backend: Any = super()
        try:
            return backend.decode(payload)
        except Exception as exc:  # what a serializer, a compression or `accept` makes of strange bytes
            raise _Unreadable(
                f'not readable as JSON ({exc}): set result_serializer="json" on the worker'
            ) from exc

    def _decode_stored_result(self, payload: Any) -> Any:
        """Read the `result` column of the database backend, which may be a pickle.

        Raises:
            _Unreadable: it is something else, or the pickle holds more than plain data.
        """
        if payload is not None and bytes(payload[:1]) == b"\x80":
            try:
                return _PlainUnpickler(io.BytesIO(payload)).load()
            except Exception as exc:  # a damaged pickle raises anything
                raise _Unreadable(
                    f'a pickle of more than plain data ({exc}): set result_serializer="json" on the worker'
                ) from exc
        return None if payload is None else self.decode(payload)


class _PlainUnpickler(pickle.Unpickler):
    """Builds numbers, texts, lists, dicts, … and calls nothing: no class, no function is ever looked up."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        """Refuse.

        Raises:
            UnpicklingError: always.
        """
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse.

        Raises:
            UnpicklingError: always.
        """
        raise pickle.UnpicklingError(f"it refers to {pid!r}")


class _ReaderApp(Celery):
    """A Celery app that only reads and stores results."""

    def _get_backend(self) -> Any:
        return build_backend(self, _PlainResults)


def _reader_app(celery_app: Celery) -> Celery:
    scheme = str(celery_app.conf.result_backend).partition("://")[0]
    if scheme in _READABLE_ONCE:
        raise ValueError(
            f"the result backend {scheme}:// hands out a result once, to the process that sent the task: set "
            "result_backend to a redis:// URL, or to another store"
        )
    app = _ReaderApp(celery_app.main, set_as_current=False, loader=celery_app.loader_cls)
    app.conf.update(celery_app.conf.table(with_defaults=False, censored=False))
    app.conf.update(
        result_serializer="json",
        result_accept_content=["json"],
        # Names and attempts, where the worker stores them: the database backend reads them only then.
        result_extended=True,
        # One attempt: the caller is told in time, and decides.
        result_backend_always_retry=False,
        # The database backend would connect for it when it is made; it creates them when it is first used, too.
        database_create_tables_at_setup=False,
        # Stored results are read, whatever the caller's own tasks do.
        task_always_eager=False,
    )
    app.finalize()
    backend: Any = app.backend
    if sessions := getattr(backend, "session_manager", None):
        # Else it builds an engine, and connects, for every single read; workers set this after their fork.
        sessions.forked = True
    return app


_READABLE_ONCE = ("rpc", "amqp")


def _record_id(task_id: str) -> str:
    return f"task-record:{task_id}"


def _is_final(meta: Meta | None) -> bool:
    return meta is not None and meta["status"] in (TaskState.SUCCESS, TaskState.FAILURE, TaskState.REVOKED)


def _publish_timeout(timeout: float, task_id: str | None) -> PublishTimeout:
    return PublishTimeout(
        f"the broker did not answer within {timeout:g} s: the message may or may not have been taken; sending it "
        "again under the same task id is safe",
        task_id=task_id,
    )
