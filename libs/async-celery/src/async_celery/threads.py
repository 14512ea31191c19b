"""A transport that runs Celery's own blocking code in threads: the seed's way, made bounded.

How it works: every call runs in one of two thread pools of our own, one towards the broker and one towards the
backend, so that an outage of one does not use up the threads of the other (`_Threads`). `asyncio` bounds how long
the caller waits; socket timeouts bound how long the thread is kept. Waiting for a result is a sleep between two
MGETs, with exponential backoff: it holds no thread.

The calls go through a producer app, a private Celery app with the caller's configuration and these differences:
no SUBSCRIBE per task sent (it blocks, and Celery never unsubscribes), connections of its own, one attempt and
one reconnect within `publish_timeout` instead of Celery's retries, `mandatory` messages, JSON results only.

Settings of the caller's that count: `broker_url` (or its parts), `result_backend` (redis:// or rediss://),
`broker_transport_options={"confirm_publish": True}` (required), `task_queues` and the other `task_*` that
describe queues, `result_expires`, `redis_socket_keepalive`, `redis_backend_health_check_interval`, and TLS. On
the workers: `result_serializer="json"`; `result_extended` for names and attempts, `task_track_started` for
STARTED.

What belongs here: everything that talks to kombu, amqp or redis, and the translation of their errors.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

from amqp.exceptions import AMQPError, MessageNacked
from asgiref.sync import sync_to_async
from celery import Celery
from celery.app.amqp import AMQP
from celery.backends.redis import RedisBackend
from celery.result import AsyncResult, GroupResult
from kombu import pools
from kombu.exceptions import EncodeError, KombuError
from kombu.messaging import Producer
from redis.exceptions import RedisError

from async_celery.backoff import Backoff
from async_celery.canvas import freeze
from async_celery.errors import (
    BackendError,
    Nacked,
    PayloadError,
    PublishError,
    PublishTimeout,
    TransportError,
    Unroutable,
)
from async_celery.types import Meta, NodeKind, TaskMessage, TaskNode, TaskRecord

P = ParamSpec("P")
T = TypeVar("T")

# A workflow publishes one message per member; a confirm takes a few ms, on a busy machine up to 20.
_MEMBERS_PER_TIMEOUT = 100


class ThreadsTransport:
    """Implements `types.Transport` over Celery, kombu and redis-py."""

    def __init__(
        self, celery_app: Celery, *, publish_timeout: float, backend_timeout: float, max_threads: int
    ) -> None:
        """Build the producer app. Opens no connection.

        Args:
            celery_app: the caller's.
            publish_timeout: in s, for each answer of the broker.
            backend_timeout: in s, for each answer of the backend.
            max_threads: of each of the two pools.

        Raises:
            ValueError: publisher confirms are off, or results are not in Redis.
        """
        if not celery_app.conf.broker_transport_options.get("confirm_publish"):
            raise ValueError(
                "without publisher confirms a sent task may be lost unnoticed: set "
                'broker_transport_options={"confirm_publish": True} in the Celery app'
            )
        self._publish_timeout = publish_timeout
        self._backend_timeout = backend_timeout
        self._app = _producer_app(
            celery_app,
            publish_timeout=publish_timeout,
            backend_timeout=backend_timeout,
            max_threads=max_threads,
        )
        backend: Any = self._app.backend
        if not isinstance(backend, UnsubscribedRedisBackend):
            raise ValueError(  # noqa: TRY004 (the setting's value is wrong, not the argument's type)
                f"results are read from Redis, not from {type(backend).__name__}: set result_backend to a "
                "redis:// or rediss:// URL"
            )
        self._backend: Any = backend
        self._redis: Any = backend.client
        self._producers = self._app.amqp.producer_pool
        self._broker_threads = _Threads("async-celery-broker", max_threads)
        self._backend_threads = _Threads("async-celery-backend", max_threads)
        self._backoff = Backoff()
        self._closed = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def publish(self, message: TaskMessage) -> None:
        """See `Transport`."""

        def send() -> None:
            self._app.send_task(
                message.name,
                tuple(message.args),
                dict(message.kwargs),
                task_id=message.task_id,
                queue=message.queue,
                serializer=message.serializer,
                expires=message.expires,
                headers=dict(message.headers),
            )

        with self._operation():
            await self._at_broker(send, within=self._publish_timeout, task_id=message.task_id)

    async def publish_canvas(
        self, canvas: Any, *, workflow_id: str, accepted_at: datetime, deadline: datetime
    ) -> TaskRecord:
        """See `Transport`."""
        with self._operation():
            # Freezing is pure CPU, 200 ms of it for a chord of 1000: not on the loop, and not against a timeout.
            frozen, tree = await self._broker_threads.run(
                freeze, canvas, self._app, workflow_id=workflow_id, expires=deadline.isoformat()
            )
            record = TaskRecord(accepted_at=accepted_at, tree=tree)
            await self._at_backend(self._save, workflow_id, record)
            members = sum(1 for _ in tree.leaves())
            await self._at_broker(
                frozen.apply_async,
                within=self._publish_timeout * (1 + members / _MEMBERS_PER_TIMEOUT),
                task_id=workflow_id,
            )
            return record

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool) -> None:
        """See `Transport`."""
        # `app.control.revoke` would take a second connection, and retry for ever. Children of prefork workers die
        # of SIGTERM at once; the worker replaces them, and stores REVOKED.
        app: Any = self._app
        exchange = app.control.mailbox.exchange
        arguments = {"task_id": list(task_ids), "terminate": terminate, "signal": "SIGTERM"}

        def broadcast() -> None:
            with self._producers.acquire(block=True, timeout=self._publish_timeout) as producer:
                producer.publish(
                    {"method": "revoke", "arguments": arguments, "destination": None},
                    exchange=exchange.name,
                    declare=[exchange],
                    serializer="json",
                    headers={"clock": app.clock.forward(), "expires": 0},
                )

        with self._operation():
            await self._at_broker(broadcast, within=self._publish_timeout)

    async def mark_revoked(self, task_ids: Sequence[str]) -> None:
        """See `Transport`."""

        def mark() -> None:
            with self._redis.pipeline(transaction=False) as pipe:
                for task_id in task_ids:
                    key = self._backend.get_key_for_task(task_id)
                    pipe.set(key, _revoked(task_id), nx=True, ex=self._backend.expires or None)
                pipe.execute()

        with self._operation():
            await self._at_backend(mark)

    async def read(self, task_id: str) -> tuple[Meta | None, TaskRecord | None]:
        """See `Transport`."""

        def read() -> tuple[Meta | None, TaskRecord | None]:
            meta, record = self._redis.mget([self._backend.get_key_for_task(task_id), _record_key(task_id)])
            return self._decode(task_id, meta), None if record is None else TaskRecord.decode(record)

        with self._operation():
            return await self._at_backend(read)

    async def read_many(self, task_ids: Sequence[str]) -> list[Meta | None]:
        """See `Transport`."""

        def read() -> list[Meta | None]:
            metas = self._redis.mget([self._backend.get_key_for_task(id_) for id_ in task_ids])
            return [self._decode(id_, meta) for id_, meta in zip(task_ids, metas, strict=True)]

        with self._operation():
            return await self._at_backend(read)

    async def changes(self, task_id: str) -> AsyncGenerator[None]:  # noqa: ARG002 (here, time alone decides)
        """See `Transport`."""
        yield
        for pause in self._backoff.pauses():
            await asyncio.sleep(pause)
            yield

    async def forget(self, task_ids: Sequence[str], *, record_of: str) -> None:
        """See `Transport`."""
        keys = [*(self._backend.get_key_for_task(id_) for id_ in task_ids), _record_key(record_of)]
        with self._operation():
            await self._at_backend(self._redis.delete, *keys)

    async def ping_broker(self) -> None:
        """See `Transport`."""

        def ping() -> None:
            producer: Any
            with self._producers.acquire(block=True, timeout=self._publish_timeout) as producer:
                producer.ping()

        with self._operation():
            await self._at_broker(ping, within=self._publish_timeout)

    async def ping_backend(self) -> None:
        """See `Transport`."""
        with self._operation():
            await self._at_backend(self._redis.ping)

    async def aclose(self) -> None:
        """See `Transport`."""
        self._closed = True
        await self._idle.wait()
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        for threads in (self._broker_threads, self._backend_threads):
            threads.shut_down()
        connections = self._producers.connections
        give_up = time.monotonic() + self._publish_timeout
        for _ in range(connections.limit or 0):
            # Replacing closes a connection politely; a broker that has gone is not waited for.
            if time.monotonic() < give_up:
                with contextlib.suppress(AMQPError, OSError):
                    connections.replace(connections.acquire())
        connections.force_close_all()
        self._redis.connection_pool.disconnect()

    def _save(self, workflow_id: str, record: TaskRecord) -> None:
        """Store the record and, for Celery's own clients, the group: before anything of it is published."""
        lifetime = self._backend.expires or None
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(_record_key(workflow_id), record.encode(), ex=lifetime)
            if record.tree.kind is NodeKind.GROUP:
                # As `GroupResult.save` would, which also publishes it and calls what redis-py has deprecated.
                saved = self._backend.encode({"result": self._group_result(record.tree).as_tuple()})
                pipe.set(self._backend.get_key_for_group(workflow_id), saved, ex=lifetime)
            pipe.execute()

    def _group_result(self, node: TaskNode) -> GroupResult:
        members: list[Any] = [
            self._group_result(child) if child.kind is NodeKind.GROUP else AsyncResult(child.id, app=self._app)
            for child in node.children
        ]
        return GroupResult(node.id, members, app=self._app)

    def _decode(self, task_id: str, payload: bytes | None) -> Meta | None:
        """Read a stored result: JSON, whatever it says it is. Never a pickle, never a rebuilt exception."""
        if payload is None:
            return None
        try:
            meta: Meta = self._backend.decode(payload)
        except (KombuError, ValueError) as exc:
            message = f'not readable as JSON ({exc}): set result_serializer="json" on the worker'
            error = {"exc_type": "UnreadableResult", "exc_message": [message]}
            return {"status": "FAILURE", "task_id": task_id, "result": error}
        return meta

    @contextlib.contextmanager
    def _operation(self) -> Iterator[None]:
        """Refuse to begin when closed; hold up closing until the end. Every operation ends by its timeouts."""
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

    async def _at_broker(self, call: Callable[[], object], *, within: float, task_id: str | None = None) -> None:
        try:
            async with asyncio.timeout(within):
                await self._broker_threads.run(call)
        except TimeoutError as exc:
            raise _publish_timeout(within, task_id) from exc
        except (RedisError, OSError) as exc:
            # Publishing a chord also stores its size.
            raise _backend_error(exc) from exc

    async def _at_backend(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            async with asyncio.timeout(self._backend_timeout):
                return await self._backend_threads.run(call, *args, **kwargs)
        except TimeoutError as exc:
            raise BackendError(f"the result backend did not answer within {self._backend_timeout:g} s") from exc
        except (RedisError, OSError) as exc:
            raise _backend_error(exc) from exc


class _Threads:
    """A thread pool that takes only as much as it has threads for; the rest waits on the loop.

    A burst of calls handed to the pool at once would stretch that one iteration of the loop by all the work of
    the threads that it wakes: seen, 380 ms for 400 sends; this way, 30 ms.
    """

    def __init__(self, name: str, size: int) -> None:
        self._executor = ThreadPoolExecutor(size, name)
        self._free = asyncio.Semaphore(size)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call in a thread. Cancelled, it returns at once; the thread ends the call."""
        async with self._free:
            in_thread = sync_to_async(call, thread_sensitive=False, executor=self._executor)
            return await in_thread(*args, **kwargs)

    def shut_down(self) -> None:
        """Wait, blocking, for the calls that have begun."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class _ProducerApp(Celery):
    """A Celery app that only publishes: every task as `mandatory`."""

    def send_task(self, *args: Any, **options: Any) -> Any:
        """Publish one task; Celery's canvas comes through here too.

        Raises:
            PublishError: see `_ConfirmedProducer.publish`.
            PayloadError: the message cannot be built.
        """
        try:
            return super().send_task(*args, **{**options, "mandatory": True})
        except (TypeError, ValueError, RecursionError) as exc:
            # Met before the serializer is: numbers too long for `repr`, text that is not Unicode, …
            raise _payload_error(exc) from exc


class _ProducerAmqp(AMQP):
    """Gives the producer app pools of its own: kombu's are shared, with one size, by the whole process."""

    _pool: pools.ProducerPool | None = None

    @property
    def producer_pool(self) -> pools.ProducerPool:
        """The pool of producers; as many connections as there are threads, so that none waits for one."""
        if self._pool is None:
            limit = self.app.conf.broker_pool_limit
            connections = self.app.connection_for_write().Pool(limit)
            self._pool = pools.ProducerPool(connections, Producer=_ConfirmedProducer, limit=limit)
        return self._pool


class _ConfirmedProducer(Producer):
    """Publishes one message at a time, and knows afterwards what became of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._returned = False
        super().__init__(*args, **{**kwargs, "on_return": self._on_return})

    @property
    def _pooled(self) -> Any:
        """The connection: for a producer out of a pool there always is one."""
        return self.connection

    def _on_return(self, *_: object) -> None:
        # Other producers that used this connection's channel before are called as well: see `publish`.
        self._returned = True

    def publish(self, body: Any, *args: Any, **options: Any) -> None:
        """Publish, and return when the broker has confirmed.

        Raises:
            PublishError, PayloadError: it has not.
        """
        task_id = options.get("correlation_id")
        with self._translated(task_id):
            self._reconnecting(lambda: super(_ConfirmedProducer, self).publish(body, *args, **options))
        # `basic.return` comes before the confirm, so it is known by now.
        if self._returned:
            # The queue was there, and has gone. The pool closes the connection of whoever raises, and with it
            # what counts as declared there.
            raise Unroutable(
                f"no queue for {options.get('routing_key')!r}: send again, it will be declared anew",
                task_id=task_id,
            )

    def ping(self) -> None:
        """Make a round trip to the broker, on a channel of its own.

        Raises:
            PublishError: it did not answer.
        """
        with self._translated(None):
            self._reconnecting(self._open_channel)

    def _open_channel(self) -> None:
        self._pooled.ensure_connection(max_retries=0)
        self._pooled.channel().close()

    def _reconnecting(self, call: Callable[[], object]) -> None:
        """Call; and once more, on a new connection, when the pooled one turns out to have died meanwhile."""
        connection = self._pooled
        was_connected = connection.connected
        self._returned = False
        try:
            call()
        except TimeoutError:
            # Not dead but silent: a second attempt would take as long, and nobody waits for it any more.
            raise
        except connection.recoverable_connection_errors:
            if not was_connected:
                raise
            connection.collect()
            self.revive(connection)
            call()

    @contextlib.contextmanager
    def _translated(self, task_id: str | None) -> Iterator[None]:
        try:
            yield
        except EncodeError as exc:
            raise _payload_error(exc) from exc
        except (KombuError, AMQPError, MessageNacked, OSError) as exc:
            # The pool would close the connection too, but politely: waiting for a broker that hangs. And a late
            # confirm must not be taken for a later message's.
            self._pooled.collect()
            if isinstance(exc, MessageNacked):
                raise Nacked("the broker refused the message: its queue is full", task_id=task_id) from exc
            if isinstance(exc, TimeoutError):
                raise _publish_timeout(self._pooled.connect_timeout, task_id) from exc
            raise PublishError(f"the broker is not reachable or refused: {exc}", task_id=task_id) from exc


class UnsubscribedRedisBackend(RedisBackend):
    """Celery's producer would SUBSCRIBE to every result, and never unsubscribe. Loaded by Celery, by its name."""

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Do nothing; `ThreadsTransport` reads results itself."""

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:  # noqa: ARG002 (Celery's signature)
        """Do nothing, as above; Celery's groups call this one."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Do nothing, as above."""
        return result


def _producer_app(
    celery_app: Celery, *, publish_timeout: float, backend_timeout: float, max_threads: int
) -> Celery:
    """Return the private app: the caller's configuration, and what the module's docstring says."""
    app = _ProducerApp(celery_app.main, set_as_current=False, amqp=_ProducerAmqp, loader=celery_app.loader_cls)
    app.conf.update(celery_app.conf.table(with_defaults=False, censored=False))
    app.conf.update(
        broker_transport_options={
            **app.conf.broker_transport_options,
            # The first attempt to connect decides; see `_ConfirmedProducer._reconnecting`.
            "max_retries": 0,
            # A connection that hangs must free its thread.
            "read_timeout": publish_timeout,
            "write_timeout": publish_timeout,
        },
        broker_connection_timeout=publish_timeout,
        broker_pool_limit=max_threads,
        task_publish_retry=False,
        redis_socket_timeout=backend_timeout,
        redis_socket_connect_timeout=backend_timeout,
        redis_retry_on_timeout=False,
        # Both pools of threads may use it: chords store their size while they are published.
        redis_max_connections=2 * max_threads,
        result_backend_transport_options={
            **app.conf.result_backend_transport_options,
            "retry_policy": {"max_retries": 0},
        },
        result_serializer="json",
        result_accept_content=["json"],
    )
    redis_backend = f"{__name__}:{UnsubscribedRedisBackend.__name__}"
    app.loader.override_backends = {"redis": redis_backend, "rediss": redis_backend}
    # Celery builds these when first used: not in the first request then, and not in two threads at once.
    app.finalize()
    app.amqp.send_task_message, app.control, app.backend  # noqa: B018 (touched to be built)
    return app


def _record_key(task_id: str) -> str:
    return f"task-record:{task_id}"


def _revoked(task_id: str) -> str:
    """Return a result as Celery stores it for a revoked task."""
    return json.dumps(
        {
            "status": "REVOKED",
            "result": {
                "exc_type": "TaskRevokedError",
                "exc_message": ["revoked"],
                "exc_module": "celery.exceptions",
            },
            "traceback": None,
            "children": [],
            "date_done": datetime.now(UTC).isoformat(),
            "task_id": task_id,
        }
    )


def _publish_timeout(timeout: float, task_id: str | None) -> PublishTimeout:
    return PublishTimeout(
        f"the broker did not answer within {timeout:g} s: the message may or may not have been taken; sending it "
        "again under the same task id is safe",
        task_id=task_id,
    )


def _payload_error(exc: Exception) -> PayloadError:
    return PayloadError(f"the arguments cannot be serialised: {exc}")


def _backend_error(exc: Exception) -> BackendError:
    return BackendError(f"the result backend is not reachable or refused: {exc}")
