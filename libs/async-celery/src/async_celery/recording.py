"""Lets Celery's own code say what it would send, and writes that down instead of sending it.

How it works: a private Celery app, the shadow app, has the caller's configuration, but its producer and its
result backend do no I/O: what Celery hands to them lands on a tape (`_Tape`). So Celery itself defines every
message that is not on the fast path (`message.py`): routing, serializers, countdowns, canvases. Of many messages
that are alike it defines the first (`samples.py`). A context variable names the tape of the recording under way,
so that several may run at once.

A canvas of a few tasks is recorded on the loop; a larger one in a thread, for a chord of 1,000 keeps the
interpreter busy for tens of ms. There is one such thread: a second would only fight with it for the interpreter.

What differs from what Celery's producer would send, and why:

- no `expiration` property unless it is asked for: a message that expires in its queue leaves no result, and a
  chord whose header it was part of would wait for it for ever; the worker, which reads the `expires` header,
  stores REVOKED;
- a chord's size is stored before its first task is published, not before its last: a publisher that dies
  half-way leaves a chord that can never count too few as enough;
- a header with the time of sending (`PUBLISHED_AT`): a task's timeline begins with it;
- no `task-sent` events, and no options of tasks that are registered in this process: tasks are sent by name.

Celery's signals `before_task_publish` and `after_task_publish` are sent while recording.

What belongs here: Celery as a function from calls to values. What a canvas looks like before it is recorded is
`canvas.py`'s; sending is the brokers'.
"""

import asyncio
import contextlib
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.app import backends
from celery.exceptions import ImproperlyConfigured
from celery.result import AsyncResult
from celery.utils.nodenames import anon_nodename
from celery.utils.quorum_queues import detect_quorum_queues
from celery.utils.time import maybe_make_aware

from async_celery.canvas import freeze, has_more_tasks_than
from async_celery.errors import PayloadError
from async_celery.plain_chain import PlainChain, freeze_plain_chain, is_short_chain
from async_celery.reprs import celery_repr
from async_celery.samples import Samples
from async_celery.signed_pickle import SigningAMQP
from async_celery.types import (
    PUBLISHED_AT,
    BackendCall,
    Publication,
    Recording,
    TaskMessage,
    TaskNode,
    TaskRecord,
)

# A task takes some 130 µs where Celery makes its message, half of that after a sample (`samples.py`), so the loop
# is held up for 2 ms at most. These are done sooner here than in a thread, which takes 100 µs to hand them over,
# and longer where others want the interpreter as well. A plain chain takes much less
# (`plain_chain.is_short_chain`).
_MOST_TASKS_ON_THE_LOOP = 16

_SWITCH_INTERVAL = 0.001  # s

# Whole seconds are what is left when Celery has subtracted the time; a little more than one, then.
_SHORTEST_DELAY = timedelta(seconds=1.1)

# How, not what, to send: the brokers have their own answers to these.
_OPTIONS_OF_SENDING = ("retry", "retry_policy", "timeout", "confirm_timeout", "mandatory")

_READ_FOR_EVERY_TASK = ("task_always_eager", "task_repr_maxlevels", "task_send_sent_event", "task_serializer")


class CeleryRecorder:
    """Implements `types.Recorder` over a shadow app. Does no I/O; thread-safe."""

    def __init__(self, celery_app: Celery, *, new_child_id: Callable[[], str]) -> None:
        """Build the shadow app.

        Args:
            celery_app: the caller's; it is read, never changed.
            new_child_id: returns a new id for a member of a workflow.
        """
        self.app: Celery = _shadow_of(celery_app)
        """The shadow app: its `conf` and `amqp` describe queues and exchanges as Celery understands them."""
        self._new_child_id = new_child_id
        self._thread = ThreadPoolExecutor(1, "async-celery-recorder")

    def task(self, message: TaskMessage) -> Publication:
        """Return what Celery's `send_task` would publish.

        Raises:
            PayloadError: the message cannot be built.
        """
        # None would override the queue's default.
        priority: dict[str, Any] = {} if message.priority is None else {"priority": message.priority}
        with _recording(keep_expiration=message.expiration) as tape:
            self.app.send_task(
                message.name,
                tuple(message.args),
                dict(message.kwargs),
                task_id=message.task_id,
                queue=message.queue,
                serializer=message.serializer,
                expires=message.expires,
                countdown=message.countdown,
                headers=dict(message.headers),
                **priority,
            )
        return tape.publications[-1]

    def revocation(self, task_ids: Sequence[str], *, terminate: bool) -> Publication:
        """Return the broadcast that tells all workers not to start these tasks, or also to stop them."""
        # As `app.control.revoke` would. Children of prefork workers die of SIGTERM at once; the worker replaces
        # them, and stores REVOKED.
        app: Any = self.app
        exchange = app.control.mailbox.exchange
        arguments = {"task_id": list(task_ids), "terminate": terminate, "signal": "SIGTERM"}
        return Publication(
            task_id=None,
            body={"method": "revoke", "arguments": arguments, "destination": None},
            options={
                "exchange": exchange.name,
                "routing_key": "",
                "serializer": "json",
                "declare": [exchange],
                "headers": {"clock": app.clock.forward(), "expires": 0},
            },
            # Nobody listens while no worker runs.
            mandatory=False,
        )

    async def canvas(
        self, canvas: Any, *, workflow_id: str, accepted_at: datetime, deadline: datetime
    ) -> Recording:
        """See `types.Recorder`."""
        # Plain chains are frequent, and Celery takes long for them.
        if is_short_chain(canvas) and (plain := self._freeze_plainly(canvas, workflow_id, deadline)):
            return _recorded(*plain, accepted_at, deadline)
        if not has_more_tasks_than(_MOST_TASKS_ON_THE_LOOP, canvas):
            return self._record(canvas, workflow_id, accepted_at, deadline)

        def record() -> Recording:
            with _courtesy:
                return self._record(canvas, workflow_id, accepted_at, deadline)

        # Whoever listens to Celery's signals meets the messages in the context of their sender.
        return await asyncio.get_running_loop().run_in_executor(self._thread, copy_context().run, record)

    def _record(self, canvas: Any, workflow_id: str, accepted_at: datetime, deadline: datetime) -> Recording:
        frozen, tree = self._freeze_plainly(canvas, workflow_id, deadline) or freeze(
            canvas,
            self.app,
            workflow_id=workflow_id,
            expires=deadline.isoformat(),
            new_child_id=self._new_child_id,
        )
        return _recorded(frozen, tree, accepted_at, deadline)

    def _freeze_plainly(
        self, canvas: Any, workflow_id: str, deadline: datetime
    ) -> tuple[PlainChain, TaskNode] | None:
        return freeze_plain_chain(
            canvas,
            self.app,
            workflow_id=workflow_id,
            expires=deadline.isoformat(),
            new_child_id=self._new_child_id,
        )


def _recorded(frozen: Any, tree: TaskNode, accepted_at: datetime, deadline: datetime) -> Recording:
    with _recording() as tape:
        frozen.apply_async()
    return Recording(
        record=TaskRecord(accepted_at=accepted_at, deadline=deadline, tree=tree),
        calls=tuple(tape.calls),
        publications=tuple(tape.publications),
    )


class _Courtesy:
    """Lets the loop have the interpreter when it needs it, as long as a thread keeps the interpreter busy.

    A thread that wants the interpreter waits for up to the switch interval, 5 ms, at every system call it makes:
    with 1 ms, the longest lag of a loop beside a chord of 1,000 fell from 14 to 4 ms. And the many new objects
    would make the garbage collector look through all old ones, holding the interpreter for 40 ms and more; but
    little of this is garbage, and most of it is freed, without the collector, when the workflow is sent.

    Reentrant: what was set before is restored when the last recording under way, of any client, has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._interval = 0.0
        self._collects = True

    def __enter__(self) -> None:
        with self._lock:
            self._under_way += 1
            if self._under_way == 1:
                self._interval, self._collects = sys.getswitchinterval(), gc.isenabled()
                sys.setswitchinterval(min(self._interval, _SWITCH_INTERVAL))
                gc.disable()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                sys.setswitchinterval(self._interval)
                if self._collects:
                    gc.enable()


_courtesy = _Courtesy()


@dataclass(kw_only=True)
class _Tape:
    """What Celery's code has handed over so far, in its order."""

    keep_expiration: bool
    # Celery asks the system for it with every task.
    origin: str = field(default_factory=anon_nodename)
    calls: list[BackendCall] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)


_current_tape: ContextVar[_Tape] = ContextVar("async_celery_tape")


@contextlib.contextmanager
def _recording(*, keep_expiration: bool = False) -> Iterator[_Tape]:
    tape = _Tape(keep_expiration=keep_expiration)
    token = _current_tape.set(tape)
    try:
        yield tape
    except (TypeError, ValueError, RecursionError) as exc:
        # Met before the serializer is: numbers too long for `repr`, text that is not Unicode, a bad countdown, …
        raise PayloadError(f"the arguments or options cannot become a message: {exc}") from exc
    finally:
        _current_tape.reset(token)


class _RecordingProducer:
    """Takes the place of kombu's producer. Its connection is a real one that is never opened."""

    connection: Any = None

    def publish(self, body: Any, **options: Any) -> None:
        """Record, where kombu's would serialize and send."""
        tape = _current_tape.get()
        for name in _OPTIONS_OF_SENDING:
            options.pop(name, None)
        if not tape.keep_expiration:
            options.pop("expiration", None)
        options["headers"][PUBLISHED_AT] = time.time()
        tape.publications.append(Publication(task_id=options["correlation_id"], body=body, options=options))


class _RecordingBackend:
    """Goes before a backend's own class: records what a producer would make it store, subscribes to nothing."""

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:  # noqa: ARG002 (Celery's signature)
        """Do nothing: Celery's would SUBSCRIBE to every result, blocking, and never unsubscribe."""
        return {}

    def add_pending_result(self, result: Any, *_: Any, **__: Any) -> Any:
        """Do nothing, as above; Celery's groups call this one."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Do nothing, as above."""
        return result

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Record that so many results complete this chord's header."""
        _record_call("set_chord_size", group_id, chord_size)

    def _set_chord_key(self, key: Any, value: Any) -> None:
        """Record that Redis is to keep a header's shape: only where a member of it is a group."""
        _record_call("_set_chord_key", key, value)

    def expire(self, key: Any, value: Any) -> None:
        """Record how long a key is to live; goes with `save_group`."""
        _record_call("expire", key, value)

    def save_group(self, group_id: str, result: Any) -> Any:
        """Record that a header is to be saved; key-value backends without Redis's scripts need it."""
        _record_call("save_group", group_id, result)
        return result


def _record_call(method: str, *args: Any) -> None:
    _current_tape.get().calls.append(BackendCall(method=method, args=args))


class _RecordingAmqp(SigningAMQP):
    """Knows the queues; has no connections."""

    app: "_RecordingApp"

    def as_task_v2(
        self, task_id: str, name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any
    ) -> Any:
        """Return the message, as Celery does."""
        options.setdefault("origin", _current_tape.get().origin)
        levels = self.app.conf.task_repr_maxlevels
        if options.get("argsrepr") is None:
            options["argsrepr"] = celery_repr(args or (), self.argsrepr_maxsize, levels)
        if options.get("kwargsrepr") is None:
            options["kwargsrepr"] = celery_repr(kwargs or {}, self.kwargsrepr_maxsize, levels)
        return super().as_task_v2(task_id, name, args, kwargs, *more, **options)

    @property
    def producer_pool(self) -> Any:
        """What `send_task` asks for the kind of broker."""
        return SimpleNamespace(connections=self.app.producer)


class _NoResult(AsyncResult[Any]):
    """Stands for a task's result in Celery's code, which needs its id and its place among others of it."""

    app: Any = None

    def __init__(self, id: str, *_: Any, parent: Any = None, **__: Any) -> None:
        self.id = id
        self.parent = parent
        self._cache = None

    @property
    def backend(self) -> Any:  # type: ignore[override]  # is set nowhere
        """What Celery's groups ask for; found only then."""
        return self.app.backend

    def then(self, *_: Any, **__: Any) -> Any:
        """Do nothing: it will not come."""

    def __del__(self) -> None:
        """Do nothing: nobody waits for it."""


class _RecordingApp(Celery):
    """The shadow app."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._no_result = type("AsyncResult", (_NoResult,), {"app": self})
        self.producer = _RecordingProducer()
        self._samples = Samples(self, self._sample)

    def _sample(self, *args: Any, **options: Any) -> Publication:
        with _recording() as tape:
            self._send_by_celery(*args, **options)
        return tape.publications[-1]

    @property
    def AsyncResult(self) -> Any:  # noqa: N802 (Celery's name)
        """What Celery's code makes results of."""
        return self._no_result

    def producer_or_acquire(self, producer: Any = None) -> Any:  # noqa: ARG002 (Celery's signature)
        """Return the recording producer; a chain ignores the one it is given and asks here."""
        return contextlib.nullcontext(self.producer)

    def send_task(  # type: ignore[override]  # as all of Celery that calls it here does
        self, name: str, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Any:
        """Publish one task, as Celery does, but for what is done to `expires` and short delays."""
        tape = _current_tape.get()
        publication = self._samples.publication(name, args, kwargs, options, origin=tape.origin)
        if publication is None:
            return self._send_by_celery(name, args, kwargs, **options)
        tape.publications.append(publication)
        result = self.AsyncResult(publication.task_id)
        result.ignored = options.get("ignore_result")
        return result

    def _send_by_celery(self, *args: Any, **options: Any) -> Any:
        if isinstance(expires := options.get("expires"), str):
            # A time that is given as one goes into its header as it is. This way Celery does not read it to make
            # an `expiration` of it, a tenth of all the work, which nobody would use.
            del options["expires"]
            options["headers"] = {**(options.get("headers") or {}), "expires": expires}
        if options.get("countdown") or options.get("eta"):
            options = self._delayed_by_a_second(**options)
        return super().send_task(*args, **options)

    def _delayed_by_a_second(self, *, countdown: Any = None, eta: Any = None, **options: Any) -> dict[str, Any]:
        """Lengthen a delay of less than 1 s, for which Celery 5.7 raises where quorum queues do the delaying."""
        kind = self.producer.connection.transport.driver_type
        if detect_quorum_queues(self, kind)[0]:
            if countdown:
                countdown = max(countdown, 1)
            elif eta:
                eta = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
                eta = max(maybe_make_aware(eta, tz=self.timezone), self.now() + _SHORTEST_DELAY)
        return {**options, "countdown": countdown, "eta": eta}

    def _get_backend(self) -> Any:
        return build_backend(self, _RecordingBackend)


def build_backend(app: Celery, changes: type) -> Any:
    """Return the result backend of an app's configuration, with the methods of `changes` before its own."""
    by_url: Any = backends.by_url
    try:
        cls, url = by_url(app.conf.result_backend, app.loader)
    except (ImproperlyConfigured, ImportError) as exc:
        # The text names what is not known, never the URL with its password.
        raise ValueError(f"Celery knows no such result_backend: {exc}") from exc
    return type(f"{changes.__name__}{cls.__name__}", (changes, cls), {})(app=app, url=url)


def _shadow_of(celery_app: Celery) -> Celery:
    app = _RecordingApp(celery_app.main, set_as_current=False, amqp=_RecordingAmqp, loader=celery_app.loader_cls)
    app.conf.update(celery_app.conf.table(with_defaults=False, censored=False))
    app.conf.update(
        # A task registered here would otherwise run here.
        task_always_eager=False,
        task_send_sent_event=False,
        # The database backend connects for it when it is made.
        database_create_tables_at_setup=False,
    )
    try:
        app.producer.connection = app.connection_for_write()
    except (ImportError, KeyError, ValueError) as exc:
        # The text names what is not known or no port, never the URL with its password.
        raise ValueError(f"kombu knows no such broker_url: {exc}") from exc
    # Celery builds these when first used: not in the first request then, and not in two threads at once.
    app.finalize()
    app.amqp.send_task_message, app.control, app.backend  # noqa: B018 (touched to be built)
    # Found at once, not after a walk through the layers of Celery's settings: a fifth of all the work.
    vars(app.conf).update({name: app.conf[name] for name in _READ_FOR_EVERY_TASK})
    return app
