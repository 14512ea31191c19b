"""Dead letters: what no worker could do, why, and what is to become of it.

How it works: the workers' reaper parks such messages in a queue, with the reason in their headers
(`worker/dead_letters.py`). To look at them is to fetch all of them and to give them back, so only one may look
at a time: whoever holds the exclusive queue `dead-letters.reader`, which the broker takes away from one who
dies. Every call has a connection of its own, in a thread, and gives everything back by closing it: what was not
explicitly removed stays, in its old place.

To replay is to make the task run again: its stored end, its counted attempts and its tombstone are deleted, a
new deadline is set, the message is published to its queue under the same id, and once that is confirmed the dead
letter is removed. Where that fails, all is as before. Dying before the publishing leaves a dead letter whose task
looks queued and is no longer cancelled, nor is its workflow; dying after it, a dead letter whose task runs:
replayed again, it runs twice. What the failure of a task has ended besides (the chord that it is part of) stays
ended; the rest of its chain runs. A signed pickle has an expiry of its own that stays: past it, it is refused
once more.

What belongs here: reading, removing and replaying. Nothing here decides what a dead letter is.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from amqp.exceptions import AMQPError, ResourceLocked
from kombu import Connection
from kombu.exceptions import KombuError
from kombu.message import Message
from redis.exceptions import RedisError

from async_celery import tombstones
from async_celery.errors import BackendError, DeadLetterNotFound, PayloadError, PublishError, TransportError
from async_celery.types import PUBLISHED_AT, TaskErrorInfo, attempts_key, errbacks_key
from async_celery.worker import dead_letters as names

if TYPE_CHECKING:
    from celery import Celery

T = TypeVar("T")

_READER = "dead-letters.reader"
_MOST_LOOKED_AT = 10_000
_LOCK_PAUSE = 0.05  # s
_LONGEST_ANSWER = 2.0  # s; a broker that hangs does not keep the caller for all of a call's time


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message that no worker took to its end.

    `id` is the task's; that of the letter where the message has none, and `task_id` is None then. `reason` is
    RabbitMQ's: `rejected`, `delivery_limit`, `maxlen`. `error` is what the task ended with. `args_repr` and
    `kwargs_repr` are texts for people, shortened. `size` is the body's, in bytes. `died_at` is aware, in UTC.
    """

    id: str
    task_id: str | None
    name: str | None
    queue: str
    reason: str
    error: TaskErrorInfo
    died_at: datetime
    attempts: int | None
    args_repr: str | None
    kwargs_repr: str | None
    content_type: str | None
    size: int


class DeadLetters:
    """Reads the parked dead letters of a broker. Make one per process; `aclose` it in the end."""

    def __init__(self, celery_app: "Celery", *, task_deadline: float = 3600.0, timeout: float = 10.0) -> None:
        """Open no connection yet.

        Args:
            celery_app: with `broker_url`, `result_backend` on Redis, and the queues; it is read, never changed.
            task_deadline: in s, how long a replayed task has to start.
            timeout: in s, for each call.
        """
        self._app: Any = celery_app
        self._task_deadline = task_deadline
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, "async-celery-dead-letters")

    async def list(self, *, limit: int = 100) -> "list[DeadLetter]":
        """Return the oldest dead letters, the oldest first.

        Args:
            limit: how many at most.

        Raises:
            TransportError: the broker did not answer in time, or others kept looking all the time.
        """

        def read(reader: _Reader) -> "list[DeadLetter]":
            return [_dead_letter(message) for message in reader.messages(limit)]

        return await self._run(read)

    async def get(self, id: str) -> DeadLetter:
        """Return one.

        Raises:
            DeadLetterNotFound: it is not there, or not among the oldest 10,000.
            TransportError: as for `list`.
        """

        def read(reader: _Reader) -> DeadLetter:
            return _dead_letter(reader.find(id)[0])

        return await self._run(read)

    async def delete(self, id: str) -> None:
        """Remove one for good.

        Raises:
            DeadLetterNotFound, TransportError: as for `get`.
        """

        def delete(reader: _Reader) -> None:
            for message in reader.find(id):
                message.ack()

        await self._run(delete)

    async def delete_all(self) -> int:
        """Remove all, 10,000 at most; return how many.

        Raises:
            TransportError: as for `list`; some may be gone then.
        """

        def delete(reader: _Reader) -> int:
            deleted = 0
            for message in reader.messages(_MOST_LOOKED_AT):
                message.ack()
                deleted += 1
            return deleted

        return await self._run(delete)

    async def replay(self, id: str) -> str:
        """Have a dead letter's task run again, under the same id; return that.

        Raises:
            DeadLetterNotFound, TransportError: as for `get`.
            PublishError: its queue did not take it; it stays.
            BackendError: Redis did not answer; it stays.
            PayloadError: it is no task's message: no worker could do anything with it.
        """

        def replay(reader: _Reader) -> str:
            # More than one where a reaper died over it: they are the same.
            message, *others = reader.find(id)
            task_id = (message.headers or {}).get("id")
            if not isinstance(task_id, str):
                raise PayloadError(f"dead letter {id} is no task's message and cannot run: delete it")
            with self._reset(message, task_id):
                reader.publish(message, self._headers_of_now(message))
            for parked in (message, *others):
                parked.ack()
            return task_id

        return await self._run(replay)

    async def aclose(self) -> None:
        """Wait for what is under way. May be repeated."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self, call: "Callable[[_Reader], T]") -> T:
        """Call with the queue to oneself, in the thread."""
        deadline = time.monotonic() + self._timeout

        def run() -> T:
            try:
                with _reader(self._app, deadline) as reader:
                    return call(reader)
            except RedisError as exc:
                raise BackendError(f"Redis did not answer: {exc}") from exc
            except (AMQPError, KombuError, OSError) as exc:
                raise TransportError(f"the broker did not answer as it should: {exc}") from exc

        try:
            future = asyncio.get_running_loop().run_in_executor(self._thread, run)
        except RuntimeError as exc:
            raise TransportError("this DeadLetters is closed: make a new one") from exc
        return await future

    @contextlib.contextmanager
    def _reset(self, message: Message, task_id: str) -> Iterator[None]:
        """Delete what keeps a task from running; put it back when it could not be published."""
        client = self._app.backend.client
        key_of: Callable[[str], bytes] = self._app.backend.get_key_for_task
        headers = message.headers or {}
        # The failure of a task was stored for the rest of its chain as well.
        ids = [task_id, *_chain_of(message)]
        roots = {task_id, headers.get("root_id") or task_id}
        # A cancelled workflow's other members have tombstones of their own.
        once = (attempts_key(task_id), errbacks_key(task_id))
        keys = [*map(key_of, ids), *once, *map(tombstones.key_of, roots)]
        values = dict(zip(keys, client.mget(keys), strict=True))
        client.delete(*keys)
        try:
            yield
        except Exception:
            for key, value in values.items():
                if value is not None:
                    client.set(key, value, ex=self._app.backend.expires or None, nx=True)
            raise

    def _headers_of_now(self, message: Message) -> dict[str, Any]:
        expires = datetime.now(UTC) + timedelta(seconds=self._task_deadline)
        headers = names.without_deaths(message.headers or {})
        return {**headers, "retries": 0, "expires": expires.isoformat(), PUBLISHED_AT: time.time()}


class _Reader:
    """A connection that has the parked queue to itself."""

    def __init__(self, app: Any, connection: Connection, deadline: float) -> None:
        self._app = app
        self._connection = connection
        self._deadline = deadline

    def messages(self, limit: int) -> Iterator[Message]:
        """Yield what lies there, the oldest first; what is not acknowledged stays.

        Raises:
            TransportError: it takes too long.
        """
        channel: Any = self._connection.default_channel
        names.PARKED.bind(channel).declare()
        for _ in range(limit):
            # Not `Queue.get`, which raises where a message is not compressed as it says.
            if (message := channel.basic_get(names.PARKED.name)) is None:
                return
            if time.monotonic() > self._deadline:
                raise TransportError("reading the dead letters took too long: delete some, or raise the timeout")
            yield channel.message_to_python(message)

    def find(self, id: str) -> "list[Message]":
        """Return those with an id; at least one.

        Raises:
            DeadLetterNotFound: there is none.
        """
        found = [m for m in self.messages(_MOST_LOOKED_AT) if (m.headers or {}).get(names.ID) == id]
        if not found:
            raise DeadLetterNotFound(id)
        return found

    def publish(self, message: Message, headers: Mapping[str, Any]) -> None:
        """Publish a message to the queue that it died in.

        Raises:
            PublishError: the queue has not confirmed it.
        """
        name = str((message.headers or {})[names.QUEUE])
        queue = self._app.amqp.queues.get(name)
        # A connection of its own: when it fails, those that were fetched are still held, and can be removed.
        connection = self._app.connection_for_write(
            heartbeat=0, transport_options=_options(self._deadline) | {"confirm_publish": True}
        )
        try:
            names.publish_copy(
                connection,
                message,
                headers,
                # A queue that this app does not know has its name for routing key in the default exchange.
                exchange=queue.exchange.name if queue is not None else "",
                routing_key=queue.routing_key if queue is not None else name,
            )
        except (AMQPError, KombuError, OSError) as exc:
            raise PublishError(f"queue {name} did not take it, it stays a dead letter: {exc}") from exc
        finally:
            connection.collect()


@contextlib.contextmanager
def _reader(app: Any, deadline: float) -> Iterator[_Reader]:
    """Connect, wait for one's turn, and give everything back in the end.

    Raises:
        TransportError: the turn did not come in time.
    """
    options = _options(deadline)
    connection = app.connection_for_read(
        heartbeat=0, connect_timeout=options["read_timeout"], transport_options=options
    )
    try:
        connection.ensure_connection(max_retries=0)
        while True:
            try:
                connection.channel().queue_declare(_READER, exclusive=True, auto_delete=True)
                break
            except ResourceLocked as exc:
                if time.monotonic() > deadline:
                    raise TransportError("others read the dead letters all the time: try again later") from exc
                time.sleep(_LOCK_PAUSE)
        yield _Reader(app, connection, deadline)
        # First what was fetched, then the turn.
        connection.default_channel.close()
        connection.release()
    finally:
        connection.collect()


def _options(deadline: float) -> dict[str, Any]:
    """Return what ends a call to a broker that hangs."""
    left = min(_LONGEST_ANSWER, max(0.1, deadline - time.monotonic()))
    return {"read_timeout": left, "write_timeout": left}


def _dead_letter(message: Message) -> DeadLetter:
    headers = message.headers or {}
    attempts = headers.get(names.ATTEMPTS)
    return DeadLetter(
        id=str(headers.get(names.ID)),
        task_id=_text(headers.get("id")),
        name=_text(headers.get("task")),
        queue=str(headers.get(names.QUEUE)),
        reason=str(headers.get(names.REASON)),
        error=TaskErrorInfo(
            type=_text(headers.get(names.ERROR_TYPE)) or "", message=_text(headers.get(names.ERROR)) or ""
        ),
        died_at=datetime.fromtimestamp(float(headers.get(names.AT) or 0), UTC),
        attempts=attempts if isinstance(attempts, int) else None,
        args_repr=_text(headers.get("argsrepr")),
        kwargs_repr=_text(headers.get("kwargsrepr")),
        content_type=message.content_type,
        size=len(_bytes(message.body)),
    )


def _text(value: Any) -> str | None:
    """Return a header's text, as every reader can take it: whoever sent the message may have put in anything."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


def _chain_of(message: Message) -> Iterator[str]:
    """Yield the ids of the tasks that follow in its chain, where its body is plain JSON."""
    try:
        message.accept = {"application/json"}
        _, _, embed = message.decode()
        steps = list((embed or {}).get("chain") or ())
    except Exception:  # a body that is not a task's is for the worker to refuse
        return
    for step in steps:
        yield from _ids_in(step)


def _ids_in(signature: Any) -> Iterator[str]:
    """Yield the ids of all tasks in a signature."""
    if isinstance(signature, Mapping):
        if isinstance(task_id := (signature.get("options") or {}).get("task_id"), str):
            yield task_id
        kwargs = signature.get("kwargs") or {}
        if signature.get("subtask_type") in ("group", "chain", "chord"):
            for inner in (*(kwargs.get("tasks") or ()), *(kwargs.get("header") or ()), kwargs.get("body")):
                yield from _ids_in(inner)


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)
