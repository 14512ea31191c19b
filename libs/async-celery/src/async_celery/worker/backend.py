"""The result backend of a worker: the end of a task in one round trip, and nothing of it in halves.

How it works: Celery's Redis backend with the same keys and the same JSON, so that every Celery client reads what
is stored here. Where Celery asks for the stored result, stores the new one and then counts the part of a chord,
one script (`scripts.py`) does all of it and feeds the history. The first terminal state of a task stays. All
calls can be repeated, and are when Redis does not answer (`result_backend_always_retry`); but not in the main
process of a pool of processes (`hurry`).

A chord's body is sent by the member that completes the count. Whoever is not known to have sent it, because its
process died, has not acknowledged its message either: the message comes back, the task is found finished, and
`follow_up` sends the body under the same id. The parts arrive with the answer that they are complete, so the
aggregate is whole by construction.

What belongs here: what a worker reads and writes in Redis. Values become JSON in `encoding.py`.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

import celery.backends.redis
from celery import states
from celery.app.task import Context
from celery.canvas import maybe_signature
from celery.exceptions import ChordError, ImproperlyConfigured, Reject, TaskRevokedError
from celery.utils.log import get_logger
from kombu.exceptions import EncodeError, OperationalError

from async_celery import tombstones
from async_celery.topology import without_delay
from async_celery.types import HISTORY, attempts_key, errbacks_key
from async_celery.worker import scripts
from async_celery.worker.connection import PASSING, Connection
from async_celery.worker.encoding import encode, encode_result, error
from async_celery.worker.observer import observer_of
from async_celery.worker.policy import policy_of
from async_celery.worker.schedule import due_at, published_at
from async_celery.worker.tracing import tracer_of
from async_celery.worker.waiting import may_wait, wait

logger = get_logger(__name__)

_NEVER = 0
_CLAIM = 60  # s, after which another member may complete a chord whose claimant has not
_A_DAY = 24 * 3600  # s, for small keys where results never expire
_LET_RUN = tombstones.LET_RUN.encode()
# How what is stored of a finished task begins; see `scripts.py`.
_LONGEST_BEGINNING = 32
_FINAL = tuple(f'{{"status": "{state}"'.encode() for state in sorted(states.READY_STATES))
_FAILED = b'{"status": "FAILURE"'

# Celery's type stubs are older than it is: they know neither its Redis backend's methods nor a request's fields.
_RedisBackend: Any = celery.backends.redis.RedisBackend
_Request = Any


class Beginning(NamedTuple):
    """What is known of a task that is about to run.

    Attributes:
        revoked: it, or the workflow it belongs to, was cancelled.
        finished: it has a terminal state already.
        redeliveries: how many of its runs began with a message that had been delivered before, this one included.
    """

    revoked: bool
    finished: bool
    redeliveries: int


class ResultBackend(_RedisBackend):  # type: ignore[misc]  # Celery's stubs, see above
    """Celery's result backend over one Redis server, for the apps that `install` was called on."""

    # A terminal state is told by the first bytes of what is stored.
    supports_result_compression = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Read the app's configuration. Opens no connection.

        Raises:
            ImproperlyConfigured: results are not JSON.
        """
        super().__init__(*args, **kwargs)
        if self.serializer != "json":
            raise ImproperlyConfigured('results are stored as JSON: set result_serializer="json"')
        self._policy = policy_of(self.app)
        self._extended = bool(self.app.conf.result_extended)
        self._hurried: int | None = None

    def hurry(self) -> None:
        """Try each call once in this process, in which an event loop answers the broker; not in its children.

        Were it to wait for Redis here, the broker would take the worker for dead.
        """
        self._hurried = os.getpid()

    # ---- before and while a task runs ----

    def begin(self, task_id: str, root_id: str | None, *, redelivered: bool, retried: bool = False) -> Beginning:
        """Return what is known of a task that is about to run; count the run when it is a repeated one.

        Args:
            task_id: its id.
            root_id: of the workflow it belongs to.
            redelivered: whether the broker says that its message was delivered before.
            retried: whether it is a retry, whose earlier messages may have been delivered again.
        """
        tombstones_, result = _tombstones(task_id, root_id), self.get_key_for_task(task_id)
        # Of nearly all tasks there is none of these, and one question does.
        commands: list[tuple[str | bytes | int, ...]] = [("EXISTS", *tombstones_, result)]
        key = attempts_key(task_id)
        if redelivered:
            commands.append(("INCR", key))
            commands.append(("EXPIRE", key, self.expires or _A_DAY))
        elif retried:
            commands.append(("GET", key))
        found, *counts = self._ensure_retryable(self._connection, *commands)
        tombs, stored = 0, b""
        if found:
            tombs, stored = self._ensure_retryable(
                self._connection,
                ("EXISTS", *tombstones_),
                ("GETRANGE", result, 0, _LONGEST_BEGINNING - 1),
            )
        finished = stored.startswith(_FINAL)
        if finished and redelivered:
            # Its runs are not counted any more: the key went with its end.
            self._ensure_retryable(self._connection, ("DEL", key))
        return Beginning(tombs > 0, finished, int(counts[0] or 0) if counts else 0)

    async def are_new(self, requests: Sequence[_Request]) -> bool:
        """Return whether nothing is known of any task that is about to run: cancelled is none, nor has one ended.

        Raises:
            Exception: Redis does not answer. One try was in vain.
        """
        keys: list[str | bytes] = []
        for request in requests:
            keys += _tombstones(request.id, request.root_id)
            keys.append(self._key_of(request.id))
        (found,) = await self._connection.beside.ask(("EXISTS", *keys))
        return not found

    def give_back(self, task_id: str) -> None:
        """Take back the count of a repeated run: the worker that stops gives the task back unfinished.

        Raises:
            RedisError: one try was in vain. Who stops does not wait.
        """
        key = attempts_key(task_id)
        # Of the first run there is no count: what is left is -1, which must not stay.
        self._connection(("DECR", key), ("EXPIRE", key, self.expires or _A_DAY))

    def bury(self, task_id: str) -> None:
        """Cancel a task: what has not started never starts, what runs is stopped.

        Raises:
            RedisError: one try was in vain.
        """
        expires = ("EX", self.expires) if self.expires else ()
        self._connection(("SET", tombstones.key_of(task_id), tombstones.STOP, *expires))

    def is_revoked(self, task_id: str, root_id: str | None) -> bool:
        """Return whether a task that runs is to stop: it, or the workflow it belongs to, was cancelled."""
        (found,) = self._ensure_retryable(self._connection, ("MGET", *_tombstones(task_id, root_id)))
        return any(value not in (None, _LET_RUN) for value in found)

    def revoked_of(self, requests: Sequence[_Request]) -> list[_Request]:
        """Return those of running tasks that are to stop, with one question for all of them."""
        keys = [_tombstones(request.id, request.root_id) for request in requests]
        (found,) = self._ensure_retryable(self._connection, ("MGET", *(key for some in keys for key in some)))
        values = iter(found)
        stops = [[next(values) not in (None, _LET_RUN) for _ in some] for some in keys]
        return [request for request, some in zip(requests, stops, strict=True) if any(some)]

    def store_started(self, request: _Request) -> None:
        """Store that a task runs, unless it has ended meanwhile."""
        where = {"pid": request.get("worker_pid"), "hostname": request.hostname}
        self.store_result(request.id, where, states.STARTED, request=request)

    # ---- a task ends ----

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,  # noqa: ARG002 (it stands in the log)
        request: _Request = None,
        **_: Any,
    ) -> Any:
        """Store a task's state; with a terminal one count its part of a chord. The first terminal state stays.

        Raises:
            EncodeError: the result is not JSON.
            ResultTooLarge: there is too much of it.
            Reject: the chord is complete, but its body could not be sent: the message is to come back.
        """
        result = self.encode_result(result, state)
        text = encode_result(result, max_bytes=self._policy.max_result_bytes)
        now = time.time()
        is_final = state in states.READY_STATES
        meta = self._meta(task_id, request, finished=now if is_final else None)
        payload = self._payload(state, text, meta)
        if not is_final:
            # STARTED comes late, and from another thread: what this run has reported itself stays.
            started = meta["timeline"].get("started") if state == states.STARTED else None
            newer = "" if started is None else f'"started": {encode(started)}'
            key, expires = self.get_key_for_task(task_id), self.expires or _NEVER
            self._evaluate(scripts.REPORT, [key], [payload, expires, newer])
            return result
        keys, arguments = self._finishing(task_id, state, result, payload, meta, request)
        if not _is_member(request):
            self._finish(request, keys, arguments)
            return result
        part_keys, part_arguments = self._part(request, state, text)
        stored, *answer = self._finish(request, keys + part_keys, arguments + part_arguments)
        if stored:
            self._complete(request, answer[0])
        else:
            self._count_stored(request)
        return result

    async def store_success(self, task_id: str, result: Any, request: _Request) -> None:
        """Store what a task returned that is no member of a chord, on the event loop of the pool `asyncio`.

        Raises:
            EncodeError, ResultTooLarge: as `store_result`.
            Exception: Redis does not do it. One try was in vain.
        """
        text = encode_result(result, max_bytes=self._policy.max_result_bytes)
        meta = self._meta(task_id, request, finished=time.time())
        payload = self._payload(states.SUCCESS, text, meta)
        keys, arguments = self._finishing(task_id, states.SUCCESS, result, payload, meta, request)
        began = time.monotonic()
        await self._connection.beside.ask(("EVALSHA", scripts.FINISH.sha, len(keys), *keys, *arguments))
        observer_of(self.app).result_stored(request.get("task"), time.monotonic() - began)

    def _key_of(self, task_id: str) -> bytes:
        """As `get_key_for_task`, of an id that is one."""
        key: bytes = self.task_keyprefix + task_id.encode()
        return key

    def _finishing(
        self, task_id: str, state: str, result: Any, payload: str, meta: dict[str, Any], request: _Request
    ) -> tuple[list[str | bytes], list[Any]]:
        """Return the keys and arguments that store a terminal state."""
        expires = (self.failure_expires if state == states.FAILURE else self.expires) or _NEVER
        entry = _history_entry(state, result, meta, request)
        keys: list[str | bytes] = [self._key_of(task_id), attempts_key(task_id), HISTORY]
        return keys, [payload, expires, self._policy.history_length, len(entry), *entry]

    def _finish(self, request: _Request, keys: list[str | bytes], arguments: list[Any]) -> Any:
        began = time.monotonic()
        answer = self._evaluate(scripts.FINISH, keys, arguments)
        seconds = time.monotonic() - began
        name = request.get("task") if request else None
        observer_of(self.app).result_stored(name, seconds)
        if (tracer := tracer_of(self.app)) is not None:
            tracer.asked("store result", seconds)
        return answer

    def check_result(self, result: Any) -> None:
        """Do nothing for a result that `store_result` takes.

        Raises:
            EncodeError, ResultTooLarge: as `store_result`.
        """
        result = self.encode_result(result, states.SUCCESS)
        encode_result(result, max_bytes=self._policy.max_result_bytes)

    def on_chord_part_return(self, request: _Request, state: str, result: Any, *_: Any, **__: Any) -> None:
        """Count a task for its chord; send the body when it was the last one. May be repeated."""
        if not _is_member(request):
            return
        text = encode_result(self.encode_result(result, state), max_bytes=self._policy.max_result_bytes)
        self._complete(request, self._evaluate(scripts.COUNT, *self._part(request, state, text)))

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: _Request = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """Store a result. What is stored is counted for its chord already."""
        if store_result and not (request and request.ignore_result):
            self.store_result(task_id, result, state, request=request)
        elif request:
            self.on_chord_part_return(request, state, result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: _Request = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store that a task failed, and with it what would have followed it.

        Its errbacks are called unless they were, or it had ended otherwise: a second time only where a process
        died just then.
        """
        call_errbacks = bool(call_errbacks and request and request.errbacks) and self._has_errbacks_due(task_id)
        super().mark_as_failure(task_id, exc, traceback, request, store_result, call_errbacks, state)
        if call_errbacks:
            expires = self.failure_expires or self.expires or _A_DAY
            self._ensure_retryable(self._connection, ("SET", errbacks_key(task_id), 1, "EX", expires))

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: _Request = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Store that a task is cancelled, and with it what would have followed it: Celery leaves that pending."""
        super().mark_as_revoked(task_id, reason, request, store_result, state)
        if request:
            self._fail_chain(request.chain, TaskRevokedError(reason), store_result=store_result, state=state)

    def follow_up(self, request: _Request) -> None:
        """Do again what follows the end of a task that is stored: its process may have died in between.

        Its part is counted for its chord and the chord's body sent, what would have come after a failed task
        fails, its errbacks are called if they were not.

        Raises:
            Reject: as `store_result`.
        """
        meta = self.get_task_meta(request.id, cache=False)
        result = meta["result"]
        match meta["status"]:
            case states.SUCCESS:
                self.mark_as_done(request.id, result, request)
            case states.FAILURE:
                self.mark_as_failure(request.id, result, request=request)
            case states.REVOKED:
                self.mark_as_revoked(request.id, str(result), request)

    def _has_errbacks_due(self, task_id: str) -> bool:
        called, begins = self._ensure_retryable(
            self._connection,
            ("EXISTS", errbacks_key(task_id)),
            ("GETRANGE", self.get_key_for_task(task_id), 0, _LONGEST_BEGINNING - 1),
        )
        return not called and (begins.startswith(_FAILED) or not begins.startswith(_FINAL))

    # ---- chords ----

    def chord_error_from_stack(self, callback: Any, exc: BaseException | None = None) -> Any:
        """Fail a chord's body; also for the chord that the body is a member of, which Celery leaves waiting."""
        info = super().chord_error_from_stack(callback, exc)
        options = callback.options
        body = Context(options, id=callback.id, group=options.get("group_id"))
        self.on_chord_part_return(body, states.FAILURE, exc or ChordError("a member of its chord failed"))
        return info

    def _part(self, request: _Request, state: str, result: str) -> tuple[list[str | bytes], list[Any]]:
        """Return the keys and arguments that count a task for its chord; `result` is JSON."""
        keys = [self.get_key_for_group(request.group, name) for name in (".j", ".t", ".s", ".d", "", ".c")]
        index = request.group_index
        place = "+inf" if index is None else index
        # Celery reads the last three. With the place in it, a task that is a member twice has two parts.
        part = f"[{encode(index)}, {encode(request.id)}, {encode(state)}, {result}]"
        expires = [self.chord_expires or _NEVER, self._chord_result_expires or _NEVER, _CLAIM]
        return keys, [f"{request.id}:{place}", part, place if self._chord_zset else "", *expires]

    def _count_stored(self, request: _Request) -> None:
        """Count a task for its chord with the state that it was found to have."""
        meta = self.decode(self._ensure_retryable(self.get, self.get_key_for_task(request.id)))
        if meta is not None:
            self.on_chord_part_return(request, meta["status"], meta["result"])

    def _complete(self, request: _Request, answer: list[Any]) -> None:
        """Do what is left to do for a chord after a member of it was counted."""
        match answer:
            case [scripts.COMPLETE, header, parts]:
                self._send_body(request, header, parts)
            case [scripts.SIZE_UNKNOWN] if self._is_outlived(request):
                reason = (
                    f"what was stored of its members expired, after {self.chord_expires} s, before all had ended"
                )
                self._fail_body(request, ChordError(f"{reason}: raise result_chord_expires or result_expires"))

    def _is_outlived(self, request: _Request) -> bool:
        """Return whether a task was sent so long ago that what was stored of its chord has expired."""
        published = published_at(request)
        return bool(published and self.chord_expires and time.time() - published >= self.chord_expires)

    def _send_body(self, request: _Request, header: bytes, parts: list[bytes]) -> None:
        """Send a chord's body with the results of its members.

        Raises:
            Reject: the broker does not take it.
        """
        body: Any = maybe_signature(request.chord, app=self.app)
        try:
            results = self._aggregate(header, parts)
        except ChordError as exc:
            self._fail_body(request, exc)
            return
        passing = (OperationalError, *self.app.pool.connection.recoverable_connection_errors)
        try:
            self.app.amqp._retry_publish(body.delay, results)
        except passing as exc:
            logger.warning(
                "The body of chord %s could not be sent, member %s goes back", request.group, request.id
            )
            raise Reject(str(exc), requeue=True) from exc
        except Exception as exc:
            self._fail_body(request, ChordError(f"Callback error: {exc!r}"))
            return
        self._close_chord(request)

    def _fail_body(self, request: _Request, exc: ChordError) -> None:
        logger.error("The body of chord %s fails after its member %s: %s", request.group, request.id, exc)
        try:
            raise exc
        except ChordError:
            # Celery takes the stack from what is being handled.
            self.chord_error_from_stack(maybe_signature(request.chord, app=self.app), exc)
        self._close_chord(request)

    def _close_chord(self, request: _Request) -> None:
        """Note that a chord's body was sent, or has failed; a late copy of a member changes nothing any more."""
        claim, *rest = (self.get_key_for_group(request.group, name) for name in (".c", ".j", ".t", ".s", ".d"))
        expires = max(self.chord_expires or _A_DAY, _CLAIM)
        self._ensure_retryable(self._connection, ("SET", claim, "done", "EX", expires), ("DEL", *rest))

    def _aggregate(self, header: bytes, parts: list[bytes]) -> list[Any]:
        """Return the results of a chord's members in their order, nested as its header is.

        Raises:
            ChordError: a member failed, or its result has expired.
        """
        results = {}
        in_order = []
        for part in parts:
            result = self._unpack_chord_result(part, self.decode)
            results[self.decode(part)[1]] = result
            in_order.append(result)
        return [self._nested(one, results) for one in self.decode(header)["result"][1]] if header else in_order

    def _nested(self, node: Any, results: dict[str, Any]) -> Any:
        """Return the results of a part of a header, as `ResultBase.as_tuple` describes it."""
        (task_id, _), members = node
        if members is not None:
            return [self._nested(member, results) for member in members]
        if task_id not in results:
            meta = self.decode(self._ensure_retryable(self.get, self.get_key_for_task(task_id)))
            if meta is None:
                raise ChordError(f"the result of its member {task_id} has expired: raise result_expires")
            part = self.encode([None, task_id, meta["status"], meta["result"]])
            results[task_id] = self._unpack_chord_result(part, self.decode)
        return results[task_id]

    # ---- what is stored, and how ----

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """Return an exception as it is stored; Celery asks for other serializers on its own behalf."""
        return error(exc) if serializer in (None, "json") else super().prepare_exception(exc, serializer)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Return whether it will pass: also a Redis that is full, or takes no writes, comes back."""
        return isinstance(exc, PASSING) or super().exception_safe_to_retry(exc)

    def _ensure_retryable(self, *args: Any, max_retries: float | None = None, **kwargs: Any) -> Any:
        """Repeat a call for as long as Celery does; in the process that `hurry` was called in, never."""
        if os.getpid() == self._hurried and not may_wait():
            max_retries = 0
        return super()._ensure_retryable(*args, max_retries=max_retries, **kwargs)

    def _sleep(self, amount: float) -> None:
        """Let time pass between two tries."""
        if may_wait():
            wait(asyncio.sleep(amount))
        else:
            super()._sleep(amount)

    @cached_property
    def _connection(self) -> Connection:
        return Connection(self.client)

    def _evaluate(self, script: scripts.Script, keys: list[str | bytes], arguments: list[Any]) -> Any:
        return self._ensure_retryable(self._connection.evaluate, script, keys, arguments)

    def _meta(self, task_id: str, request: _Request, *, finished: float | None) -> dict[str, Any]:
        """Return what is stored beside a state and a result: what Celery's `_get_result_meta` does, and more."""
        meta = {
            "traceback": None,
            "children": self.current_task_children(request),
            "date_done": None if finished is None else datetime.fromtimestamp(finished, UTC).isoformat(),
        }
        timeline = {"finished": finished}
        if request:
            if request.group:
                meta["group_id"] = request.group
            if request.parent_id:
                meta["parent_id"] = request.parent_id
            if self._extended:
                meta["name"] = request.get("task")
                meta["args"], meta["kwargs"] = request.args, request.kwargs
                meta["worker"], meta["retries"] = request.hostname, request.retries
                meta["queue"] = _queue_of(request)
                if request.stamps:
                    stamped = request.stamped_headers
                    meta["stamped_headers"] = stamped
                    meta |= {name: value for name, value in request.stamps.items() if name in (stamped or ())}
            meta["attempts"] = 1 + (request.retries or 0) + (request.get("redeliveries") or 0)
            get = request.get
            timeline = {
                "published": published_at(request),
                "due": due_at(request),
                "received": get("received_at"),
                "started": get("started_at"),
                "finished": finished,
            }
        meta["timeline"] = {name: at for name, at in timeline.items() if type(at) in (float, int)}
        meta["task_id"] = task_id
        return meta

    def _payload(self, state: str, result: str, meta: dict[str, Any]) -> str:
        """Return what is stored; `result` is JSON already. The state stands first: see `scripts.py`."""
        most = self._policy.max_result_bytes
        try:
            rest = encode_result(meta, max_bytes=most)
        except EncodeError:
            # Messages bring arguments and headers that are not JSON, and of any length.
            rest = encode(
                {name: value if _is_storable(value, most // len(meta)) else None for name, value in meta.items()}
            )
        return f'{{"status": {encode(state)}, "result": {result}, {rest[1:]}'


def backend_of(app: Any) -> ResultBackend:
    """Return the app's result backend.

    Raises:
        ImproperlyConfigured: it is none of ours.
    """
    backend = app.backend
    if isinstance(backend, ResultBackend):
        return backend
    raise ImproperlyConfigured(
        f"results are stored by {type(backend).__name__}: set result_backend to the URL of one Redis server, as "
        "redis://127.0.0.1:6379/0"
    )


def _tombstones(task_id: str, root_id: str | None) -> tuple[str, ...]:
    """Return the keys of which one exists when a task was cancelled."""
    if root_id is None or root_id == task_id:
        return (tombstones.key_of(task_id),)
    return tombstones.key_of(task_id), tombstones.key_of(root_id)


def _is_member(request: _Request) -> bool:
    """Return whether a task's end is to be counted for a chord."""
    return bool(request and request.chord and request.group and request.id)


def _is_storable(value: Any, max_bytes: int) -> bool:
    try:
        encode_result(value, max_bytes=max_bytes)
    except EncodeError:
        return False
    return True


def _queue_of(request: _Request) -> str | None:
    """Return the queue that a task's message came from, as far as its routing key says so."""
    routing_key = (request.delivery_info or {}).get("routing_key")
    return without_delay(routing_key) if routing_key else None


def _history_entry(state: str, result: Any, meta: dict[str, Any], request: _Request) -> list[Any]:
    """Return the names and values of a finished task's entry in the history."""
    entry = ["id", meta["task_id"], "state", state]
    for name, at in meta["timeline"].items():
        entry += (name, at)
    if state != states.SUCCESS and isinstance(result, dict) and (type_ := result.get("exc_type")):
        entry += ("error", type_)
    if not request:
        return entry
    more = {
        "name": request.get("task"),
        "queue": _queue_of(request),
        "worker": request.hostname,
        "attempts": meta["attempts"],
        "root_id": request.root_id if request.root_id != meta["task_id"] else None,
    }
    for name, value in more.items():
        # Headers can be anything.
        if isinstance(value, str | int):
            entry += (name, value)
    return entry
