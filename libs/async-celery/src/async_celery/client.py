"""AsyncCelery: send Celery tasks and workflows from asyncio.

How it works: `send_task` and `submit` give an id that speaks for itself (`task_ids.py`), hand the message to
the broker, and return a handle once it has confirmed. The URLs of the Celery app choose the ways out and back:

    broker   amqp, amqps, pyamqp            publisher.py    asyncio, pipelined confirms
             anything else Celery knows     threads.py      Celery's own code in threads
    backend  redis, rediss, redis+socket    results.py      pushed over one connection
             anything else Celery knows     threads.py      polled, with backoff

Nothing here blocks the loop, knows a task's code, or decides policy: queues, timeouts and names are the caller's.

What belongs here: the public entry point. Handles are in `handle.py`, the wire behind `types.Broker` and
`types.Backend`.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from async_celery.errors import TransportError
from async_celery.handle import GroupHandle, Link, TaskHandle
from async_celery.history import HistoryFilter, HistoryPage, read_page
from async_celery.observation import NOBODY, Observer, guarded
from async_celery.publisher import AmqpBroker
from async_celery.recording import CeleryRecorder
from async_celery.results import RedisBackend
from async_celery.spans import Sending, Tracer
from async_celery.task_ids import TaskIds
from async_celery.threads import ThreadsBackend, ThreadsBroker
from async_celery.types import Backend, Broker, NodeKind, Recorder, Recording, TaskMessage, TaskState

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature, group

R = TypeVar("R")


class AsyncCelery:
    """A client for one broker and one result backend; an async context manager.

    Make one per process, in its lifespan; README.md shows how. It connects when it is first used, and by itself
    again after an outage.
    """

    def __init__(
        self,
        celery_app: "Celery",
        *,
        task_id_key: bytes,
        publish_timeout: float = 2.0,
        backend_timeout: float = 2.0,
        task_deadline: float = 3600.0,
        max_in_flight: int = 1000,
        max_threads: int = 16,
        observer: Observer = NOBODY,
        tracer: Tracer | None = None,
    ) -> None:
        """Take a configured Celery app; it is read, never changed, and opens no connection.

        Args:
            celery_app: with `broker_url` and `result_backend`; README.md lists the settings that count.
            task_id_key: the MAC key of ids, at least 16 bytes; the same in all replicas and after a restart.
            publish_timeout: in s, how long the broker may take to confirm.
            backend_timeout: in s, how long the result backend may take to answer.
            task_deadline: in s after acceptance; what has not started by then never does.
            max_in_flight: how many messages an AMQP broker may have unconfirmed; further sends wait.
            max_threads: for other brokers and backends, how many calls to each are under way at once. A thread
                more is also one more to compete with the loop for the interpreter.
            observer: is told what happens, for whoever measures; see `observation.py`.
            tracer: makes spans of it, for whoever traces; see `spans.py`.

        Raises:
            ValueError: a setting without which a promise of this library does not hold, or a URL that it cannot
                serve.
        """
        results_live = _seconds(celery_app.conf.result_expires)
        if results_live < task_deadline:
            raise ValueError(
                f"result_expires ({results_live:g} s) is shorter than task_deadline ({task_deadline:g} s): "
                "a result could be gone while its task still counts as queued; raise the one or lower the other"
            )
        ids = TaskIds(task_id_key)
        observer = guarded(observer)
        if not celery_app.conf.result_backend:
            raise ValueError("the Celery app keeps no results: set result_backend, to a redis:// URL for example")
        backend: Backend
        if _scheme(celery_app.conf.result_backend) in _REDIS:
            backend = RedisBackend(celery_app, ids=ids, backend_timeout=backend_timeout, observer=observer)
        else:
            backend = ThreadsBackend(
                celery_app, backend_timeout=backend_timeout, max_threads=max_threads, observer=observer
            )
        recorder = CeleryRecorder(celery_app, new_child_id=ids.child)
        broker: Broker
        if _scheme(celery_app.conf.broker_write_url or celery_app.conf.broker_url) in _AMQP:
            broker = AmqpBroker(
                celery_app,
                recorder=recorder,
                publish_timeout=publish_timeout,
                max_in_flight=max_in_flight,
                observer=observer,
            )
        else:
            broker = ThreadsBroker(
                celery_app,
                recorder=recorder,
                publish_timeout=publish_timeout,
                max_threads=max_threads,
                observer=observer,
            )
        self._assemble(
            ids=ids,
            recorder=recorder,
            broker=broker,
            backend=backend,
            task_deadline=task_deadline,
            observer=observer,
            tracer=tracer,
        )

    def _assemble(
        self,
        *,
        ids: TaskIds,
        recorder: Recorder,
        broker: Broker,
        backend: Backend,
        task_deadline: float,
        observer: Observer,
        tracer: Tracer | None,
    ) -> None:
        """Take the parts; `testing.FakeCelery` brings others."""
        self._ids = ids
        self._recorder = recorder
        self._link = Link(broker, backend, task_deadline, observer, tracer)
        self._closed = False
        self._submitting = 0
        self._none_submitting = asyncio.Event()
        self._none_submitting.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def new_task_id(self) -> str:
        """Return a new id, for `send_task` or `submit` to take later, or for another process to take.

        It says that it was accepted now: until `task_deadline` from now, every client with this key counts what
        it names as queued, sent or not. So whoever writes it down first can be asked about it at once.
        """
        return self._ids.new()

    @overload
    async def send_task(
        self,
        name: str,
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        queue: str,
        serializer: str = ...,
        task_id: str | None = ...,
        expires: float | None = ...,
        countdown: float | None = ...,
        eta: datetime | None = ...,
        priority: int | None = ...,
        headers: Mapping[str, Any] | None = ...,
        result_type: None = ...,
    ) -> TaskHandle[Any]: ...

    @overload
    async def send_task(
        self,
        name: str,
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        queue: str,
        serializer: str = ...,
        task_id: str | None = ...,
        expires: float | None = ...,
        countdown: float | None = ...,
        eta: datetime | None = ...,
        priority: int | None = ...,
        headers: Mapping[str, Any] | None = ...,
        result_type: Callable[[Any], R],
    ) -> TaskHandle[R]: ...

    async def send_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        queue: str,
        serializer: str = "json",
        task_id: str | None = None,
        expires: float | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        priority: int | None = None,
        headers: Mapping[str, Any] | None = None,
        result_type: Callable[[Any], Any] | None = None,
    ) -> TaskHandle[Any]:
        """Send one task by its name; return when the broker has confirmed it.

        Until then the arguments must not change: all that is sent in one turn of the loop is encoded at its end.

        Args:
            name: the task's registered name.
            args: its positional arguments.
            kwargs: its keyword arguments.
            queue: where to; declared when it does not exist.
            serializer: kombu's name of it.
            task_id: for a send that is repeated, or an id that is known before it: one of `new_task_id`'s. Any
                other only this handle, not one made from the id later, can tell from an unknown one before it
                starts.
            expires: in s from now; what has not started by then never does, and an AMQP broker drops it. The
                task's deadline when None.
            countdown: in s from now; it does not start earlier.
            eta: the same as a time, with its zone.
            priority: the broker's, 0 to 255; a queue without priorities ignores it.
            headers: additional message headers.
            result_type: called with the JSON result (`int`, a pydantic model's `model_validate`); its return
                type is the handle's.

        Raises:
            PublishError: the broker did not confirm; after a `PublishTimeout` it may yet have the message.
            PayloadError: the arguments cannot be serialised; nothing was sent.
            ValueError: `expires` is not within the task's deadline, `countdown` or `eta` not within `expires`,
                `eta` beside a countdown or without a zone, `priority` not a byte.
        """
        if self._closed:
            self._check_open()
        accepted_at = time.time()
        link = self._link
        lifetime = link.task_deadline if expires is None else self._checked_lifetime(expires)
        if eta is not None:
            if countdown is not None or eta.tzinfo is None:
                raise ValueError(
                    f"give either countdown or eta, an eta with its time zone; got {countdown}, {eta}"
                )
            countdown = max(0.0, eta.timestamp() - accepted_at)
        if countdown is not None and not 0 <= countdown < lifetime:
            raise ValueError(
                f"countdown must be within [0, {lifetime:g}) s, before the task expires; got {countdown:g}"
            )
        if priority is not None and not 0 <= priority <= _MAX_PRIORITY:
            raise ValueError(f"priority must be within [0, {_MAX_PRIORITY}], got {priority}")
        if task_id is None:
            task_id = self._ids.new(accepted_at)
        # Before the send: what finishes at once is not missed.
        expectation = link.backend.expect()
        message = TaskMessage(
            task_id,
            name,
            args,
            kwargs or _NOTHING,
            queue,
            serializer,
            lifetime,
            # A delayed message passes through queues whose own clocks an expiration would cut short.
            expires is not None and countdown is None,
            countdown,
            priority,
            headers or _NOTHING,
        )
        if link.tracer is None:
            await link.broker.publish(message)
        else:
            sending = Sending(name, task_id, task_id, queue, 1, message.headers)
            with link.tracer.sending(sending) as added:
                await link.broker.publish(message._replace(headers={**message.headers, **added}))
        return TaskHandle(task_id, link, result_type or _unchanged, accepted_at, True, name, None, expectation)

    @overload
    async def submit(
        self,
        canvas: "group",
        *,
        task_id: str | None = ...,
        expires: float | None = ...,
        result_type: Callable[[Any], R],
    ) -> GroupHandle[R]: ...

    @overload
    async def submit(
        self,
        canvas: "group",
        *,
        task_id: str | None = ...,
        expires: float | None = ...,
        result_type: None = ...,
    ) -> GroupHandle[Any]: ...

    @overload
    async def submit(
        self,
        canvas: "Signature[Any]",
        *,
        task_id: str | None = ...,
        expires: float | None = ...,
        result_type: Callable[[Any], R],
    ) -> TaskHandle[R]: ...

    @overload
    async def submit(
        self,
        canvas: "Signature[Any]",
        *,
        task_id: str | None = ...,
        expires: float | None = ...,
        result_type: None = ...,
    ) -> TaskHandle[Any]: ...

    async def submit(
        self,
        canvas: "Signature[Any]",
        *,
        task_id: str | None = None,
        expires: float | None = None,
        result_type: Callable[[Any], Any] | None = None,
    ) -> TaskHandle[Any]:
        """Send any canvas: signature, chain, group, chord, in any nesting; return when all of it is confirmed.

        The canvas is copied: it may be sent again. Its signatures name their own queues and serializers.

        Args:
            canvas: what to run. Its tasks need not be registered here.
            task_id: the workflow's id, one of `new_task_id`'s, where it must be known before. Unlike a task's,
                a workflow's tasks run again when it is submitted again under its id.
            expires: in s from now; no task of it starts later. The deadline when None.
            result_type: called with the JSON result; for a group, with each member's.

        Raises:
            PublishError, BackendError: not all of it was confirmed; what was published of it expires.
            PayloadError: the arguments cannot be serialised, or there is nothing to run in it.
            ValueError: `expires` is not within the deadline.
        """
        self._check_open()
        accepted_at = datetime.now(UTC)
        lifetime = self._link.task_deadline if expires is None else self._checked_lifetime(expires)
        workflow_id = self._ids.new(accepted_at.timestamp()) if task_id is None else task_id
        expectation = self._link.backend.expect()
        with self._submission():
            recording = await self._recorder.canvas(
                canvas,
                workflow_id=workflow_id,
                accepted_at=accepted_at,
                deadline=accepted_at + timedelta(seconds=lifetime),
            )
            if self._link.tracer is None:
                await self._send(workflow_id, recording)
            else:
                with self._link.tracer.sending(_sending(workflow_id, recording)) as added:
                    for publication in recording.publications:
                        publication.options["headers"].update(added)
                    await self._send(workflow_id, recording)
        convert = result_type or _unchanged
        return TaskHandle(
            workflow_id,
            self._link,
            _each(convert) if canvas.get("subtask_type") == NodeKind.GROUP else convert,
            accepted_at.timestamp(),
            is_known=True,
            name=recording.record.tree.name,
            record=recording.record,
            expectation=expectation,
        )

    async def _send(self, workflow_id: str, recording: Recording) -> None:
        """Send a workflow. What its tasks and its readers need is stored before the first of it can run."""
        save = partial(self._link.backend.save, workflow_id, recording.record, recording.calls)
        await self._link.broker.publish_all(recording.publications, after=save)

    @overload
    def handle(self, task_id: str, result_type: None = ...) -> TaskHandle[Any]: ...

    @overload
    def handle(self, task_id: str, result_type: Callable[[Any], R]) -> TaskHandle[R]: ...

    def handle(self, task_id: str, result_type: Callable[[Any], Any] | None = None) -> TaskHandle[Any]:
        """Return the handle of a task or workflow by its id, whoever sent it. Reads nothing yet.

        Args:
            task_id: in its canonical spelling.
            result_type: called with the whole JSON result, also for a group.
        """
        self._check_open()
        issued = self._ids.parse(task_id)
        return TaskHandle(
            task_id,
            self._link,
            result_type or _unchanged,
            issued.issued_at.timestamp() if issued else None,
            is_known=False,
        )

    async def history(
        self,
        *,
        name: str | None = None,
        state: TaskState | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> HistoryPage:
        """Return tasks that have ended lately, the newest first, whoever sent them.

        One page looks at `history.MAX_SCANNED` entries at most: where a filter passes few, it may hold less than
        `limit` and still name a `cursor`.

        Args:
            name: only tasks of this name.
            state: only those that ended so.
            since: only what was stored then or later; with its zone.
            until: only what was stored earlier; with its zone.
            cursor: the page before's; None for the newest.
            limit: how many at most.

        Raises:
            BackendError: the result backend did not answer.
            Unsupported: it is not Redis.
            BadCursor: `cursor` is none.
        """
        self._check_open()
        wanted = HistoryFilter(name=name, state=state, since=since, until=until)
        return await read_page(self._link.backend, wanted, cursor=cursor, limit=limit)

    async def note_times(self, times: Mapping[str, Mapping[str, float]]) -> None:
        """Keep, beside the results and as long, when something happened to tasks; see `TaskHandle.noted_times`.

        Args:
            times: in s since 1970, by task id and by what happened. What was noted first stays.

        Raises:
            BackendError: the result backend did not answer.
            Unsupported: it is not Redis.
        """
        self._check_open()
        await self._link.backend.note(times)

    async def ping_broker(self) -> None:
        """Make a round trip to the broker.

        Raises:
            PublishError: it did not answer within `publish_timeout`.
        """
        self._check_open()
        await self._link.broker.ping()

    async def ping_backend(self) -> None:
        """Make a round trip to the result backend.

        Raises:
            BackendError: it did not answer within `backend_timeout`.
        """
        self._check_open()
        await self._link.backend.ping()

    async def aclose(self) -> None:
        """Let sends under way end, then close every connection; handles can read no more. May be repeated."""
        if not self._closed:
            self._closed = True
            # What was recorded, or published in part, is published to its end: no workflow is left half-sent.
            await self._none_submitting.wait()
            # The broker first: a chord that is being sent still needs the backend.
            try:
                await self._link.broker.aclose()
            finally:
                await self._link.backend.aclose()

    @contextlib.contextmanager
    def _submission(self) -> Iterator[None]:
        """Hold up closing until the end."""
        self._submitting += 1
        self._none_submitting.clear()
        try:
            yield
        finally:
            self._submitting -= 1
            if not self._submitting:
                self._none_submitting.set()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError("this AsyncCelery is closed: make a new one")

    def _checked_lifetime(self, expires: float) -> float:
        deadline = self._link.task_deadline
        if not 0 < expires <= deadline:
            raise ValueError(f"expires must be within (0, {deadline:g}] s, the task's deadline; got {expires:g}")
        return expires


_AMQP = {"amqp", "amqps", "pyamqp"}
# Redis in every form, so that those which cannot be served are refused and not polled.
_REDIS = {"redis", "rediss", "redis+socket", "socket", "sentinel", "redis+cluster", "rediss+cluster"}
_MAX_PRIORITY = 255
_NOTHING: Mapping[str, Any] = {}


def _scheme(url: str | Sequence[str] | None) -> str:
    """Return the scheme of a URL, of the first where there are several; Celery's default for a broker is AMQP."""
    first = url if isinstance(url, str) or url is None else url[0]
    return first.split("://")[0] if first else "amqp"


def _seconds(expires: timedelta | float | None) -> float:
    """Read Celery's `result_expires`, where 0 and None mean never."""
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    return seconds or math.inf


def _sending(workflow_id: str, recording: Recording) -> Sending:
    publications = recording.publications
    queues = {publication.options["routing_key"] for publication in publications}
    return Sending(
        recording.record.tree.name,
        workflow_id,
        workflow_id,
        queues.pop() if len(queues) == 1 else None,
        len(publications),
        _NOTHING,
    )


def _unchanged(value: Any) -> Any:
    return value


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: [convert(value) for value in values]
