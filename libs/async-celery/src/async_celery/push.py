"""Results that come by themselves: one subscription wakes every waiter of a process.

How it works: Celery's Redis backend publishes each result on the channel that is called like its key. All ids
that a process makes begin alike (`task_ids.py`), so one PSUBSCRIBE hears of all its tasks, from before they are
sent: no command per task, no race between sending and subscribing. What nobody wants is dropped undecoded. Ids of
other processes are subscribed to one by one, for as long as somebody follows them.

What was pushed cannot be asked for again, so a result is also read (MGET) where a push may have been missed:

- once a new subscription stands, confirmed by the server, everything that is followed: in this order, for the
  other way round loses what is stored in between;
- when somebody begins to follow what was not listened for without a break since before it was sent, or what came
  long ago; an expectation knows the former, `heard.py` holds what came lately;
- once a second, what is followed and has not ended (`_POLL_INTERVAL`): a server may drop what it should push, and
  a dead connection may look alive. For 1,000 waiters this is one command a second.

Three tasks work for ever, and none of them on behalf of one waiter: the connection's own, one that keeps the
subscription (`_keep_subscribed`), one that reads (`_keep_read`). A waiter that goes away takes its entries out of
two dicts, and that is all.

What belongs here: who wants which result, and hearing of it. Its meaning is `metas.py`'s, bytes are `resp.py`'s.
"""

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from async_celery import metas
from async_celery.backoff import Backoff
from async_celery.errors import BackendError, TransportError
from async_celery.heard import Heard
from async_celery.observation import NOBODY, Observer
from async_celery.resp import Address, Commands, Connection
from async_celery.task_ids import TaskIds
from async_celery.timers import Timers
from async_celery.types import Meta

# By how much a result is late when its push was lost. Half of it would double the cost, which at 10,000 waiters
# is 1-2% of a processor and 10 commands a second.
_POLL_INTERVAL = 1.0  # s
# Keys in one MGET or channels in one SUBSCRIBE: about 1 ms of the loop's time.
_KEYS_AT_ONCE = 1000
# Waiters that are woken before the loop has its turn: some 3 ms of their work.
_WOKEN_AT_ONCE = 100
_RECONNECT = Backoff(first=0.02, factor=2, limit=2, jitter=0.5)

_CLOSED = "the AsyncCelery of this handle is closed: make a new one"

_log = logging.getLogger(__name__)


Expectation = int
"""The mark of `heard.Heard` before something was sent."""


class Push:
    """Follows results for any number of waiters. Does its work on the loop on which it is first used."""

    def __init__(
        self,
        address: Address,
        commands: Commands,
        *,
        ids: TaskIds,
        key_prefix: bytes,
        timeout: float,
        health_check_interval: float,
        max_result_bytes: int,
        observer: Observer = NOBODY,
    ) -> None:
        """Keep what it takes; connects when it is first used.

        Args:
            address: where Redis is.
            commands: what to read with.
            ids: those that are expected come from here.
            key_prefix: what stands before a task's id in its key, and in its channel.
            timeout: in s, for each answer on the connection that subscribes.
            health_check_interval: in s, after how long a silence that connection is asked whether it lives.
            max_result_bytes: a larger result is not kept, but a failure in its place.
            observer: is told of each read.
        """
        self._observer = observer
        self._address = address
        self._commands = commands
        self._ids = ids
        self._key_prefix = key_prefix
        self._timeout = timeout
        self._health_check_interval = health_check_interval
        self._max_result_bytes = max_result_bytes
        self._heard = Heard()
        self._followed: dict[str, _Followed] = {}
        # Ids to be read, in order; `_to_read` is set when there are any.
        self._unread: dict[str, None] = {}
        self._to_read = asyncio.Event()
        # The connection from when it can subscribe; whether its subscription stands.
        self._connection: Connection | None = None
        self._listens = False
        self._subscriptions = 0
        self._own_prefix = ids.prefix
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._loop: asyncio.AbstractEventLoop  # on which it was first used
        self._timers: Timers[_Waiter]

    def expect(self) -> Expectation | None:
        """See `types.Backend`."""
        if self._listens:
            return self._heard.mark
        self._start()
        return None

    async def follow(
        self, task_ids: Iterable[str], expectation: Expectation | None
    ) -> AsyncGenerator[list[tuple[str, Meta]]]:
        """See `types.Backend`.

        Raises:
            TransportError: it was closed, before or meanwhile.
        """
        self._start()
        follower = _Follower()
        ids = list(dict.fromkeys(task_ids))
        self._add(follower, ids, expectation)
        try:
            while True:
                await follower.ready.wait()
                if self._closed:
                    raise TransportError(_CLOSED)
                yield self._taken(follower)
                if follower.ready.is_set():
                    await asyncio.sleep(0)
        finally:
            self._remove(follower, ids)

    async def ending(self, task_id: str, expectation: Expectation | None, within: float | None) -> Meta | None:
        """See `types.Backend`.

        Raises:
            TransportError: as for `follow`.
        """
        self._start()
        loop = self._loop
        waiter = _Waiter(loop.create_future())
        ids = (task_id,)
        self._add(waiter, ids, expectation)
        # By itself: `asyncio.timeout` takes a fifth of all that a result costs.
        mark = None if within is None or within == math.inf else self._timers.set(waiter, within)
        try:
            while True:
                await waiter.news
                if self._closed:
                    raise TransportError(_CLOSED)
                if waiter.payload is not None:
                    meta = metas.decode(task_id, waiter.payload, max_bytes=self._max_result_bytes)
                    if metas.is_final(meta):
                        return meta
                if waiter.has_given_up:
                    return None
                waiter.payload, waiter.news = None, loop.create_future()
        finally:
            if mark is not None:
                self._timers.cancel(waiter, mark)
            self._remove(waiter, ids)

    async def aclose(self) -> None:
        """Stop, close the connection, and end what follows. May be repeated."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The aborted connection is closed in the loop's next round.
        await asyncio.sleep(0)
        for followed in self._followed.values():
            for follower in followed.followers:
                follower.wake()

    def _start(self) -> None:
        """Begin to listen. Ids that this process makes after a fork count as another's: heard all the same."""
        if self._tasks:
            return
        self._loop = asyncio.get_running_loop()
        self._timers = Timers(self._loop)
        if self._closed:
            return
        self._own_prefix = self._ids.prefix
        self._tasks = [
            asyncio.create_task(self._keep_subscribed(), name="async-celery-subscription"),
            asyncio.create_task(self._keep_read(), name="async-celery-reader"),
        ]

    # --- who wants what

    def _add(self, follower: "_Follower | _Waiter", ids: Sequence[str], expectation: Expectation | None) -> None:
        if self._closed:
            follower.wake()
            return
        now = self._loop.time()
        heard: list[str] = []
        unheard: list[str] = []
        for task_id in ids:
            followed = self._followed.get(task_id)
            if followed is None:
                followed = self._followed[task_id] = _Followed(now)
                (unheard if self._is_foreign(task_id) else heard).append(task_id)
            else:
                heard.append(task_id)
            # One that joins has seen nothing yet.
            followed.seen = None
            followed.is_final = False
            followed.followers.add(follower)
        if unheard:
            self._tell(b"SUBSCRIBE", unheard, then=self._read)
        if not self._listens:
            return  # All that is followed is read as soon as the subscription stands.
        if expectation is None or not self._heard.knows_since(expectation):
            self._read(heard)
            return
        for task_id in heard:
            payload = self._heard.latest(task_id)
            if payload:
                self._deliver(task_id, payload)
            elif payload is not None or self._is_foreign(task_id):
                self._read((task_id,))

    def _remove(self, follower: "_Follower | _Waiter", ids: Sequence[str]) -> None:
        unwanted = []
        for task_id in ids:
            followed = self._followed.get(task_id)
            if followed is not None:
                followed.followers.discard(follower)
                if not followed.followers:
                    del self._followed[task_id]
                    if self._is_foreign(task_id):
                        unwanted.append(task_id)
        if unwanted:
            self._tell(b"UNSUBSCRIBE", unwanted)

    def _is_foreign(self, task_id: str) -> bool:
        return not task_id.startswith(self._own_prefix)

    # --- what comes

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        task_id = channel[len(self._key_prefix) :].decode(errors="replace")
        self._heard.note(task_id, payload)
        followed = self._followed.get(task_id)
        if followed is not None:
            # What is being read now may be older.
            followed.takes_read = False
            self._deliver(task_id, payload)

    def _deliver(self, task_id: str, payload: bytes) -> bool:
        """Hand over what is stored for a followed task; return whether that was new to anybody."""
        followed = self._followed[task_id]
        seen = hash(payload)
        if followed.seen == seen:
            return False
        followed.seen = seen
        followed.is_final = False
        if len(payload) > self._max_result_bytes:
            failure = metas.too_large(task_id, len(payload), max_bytes=self._max_result_bytes)
            payload = json.dumps(failure).encode()
        for follower in followed.followers:
            follower.hear(task_id, payload)
        return True

    def _taken(self, follower: "_Follower") -> list[tuple[str, Meta]]:
        """Decode what lies ready, up to what the loop bears at one go."""
        batch = []
        size = 0
        while follower.payloads and size < metas.DECODED_AT_ONCE:
            task_id = next(iter(follower.payloads))
            payload = follower.payloads.pop(task_id)
            meta = metas.decode(task_id, payload, max_bytes=self._max_result_bytes)
            if metas.is_final(meta):
                self._followed[task_id].is_final = True
            batch.append((task_id, meta))
            size += len(payload)
        if not follower.payloads:
            follower.ready.clear()
        return batch

    # --- reading

    def _read(self, ids: Iterable[str]) -> None:
        """Have these read, soon."""
        self._unread.update(dict.fromkeys(ids))
        self._to_read.set()

    async def _keep_read(self) -> None:
        """Read what is to be read, and once a second all that has not ended; for ever."""
        loop = asyncio.get_running_loop()
        at_once = _KEYS_AT_ONCE
        next_poll = loop.time() + _POLL_INTERVAL
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_poll):
                    await self._to_read.wait()
            now = loop.time()
            if now >= next_poll:
                next_poll = now + _POLL_INTERVAL
                self._read(
                    task_id
                    for task_id, followed in self._followed.items()
                    if not followed.is_final and followed.since <= now - _POLL_INTERVAL
                )
            try:
                while chunk := list(islice(self._unread, at_once)):
                    for task_id in chunk:
                        del self._unread[task_id]
                    await self._read_now(chunk)
                    at_once = _KEYS_AT_ONCE
            except BackendError as exc:
                # The next poll reads them all. In smaller portions, for large results may take too long together.
                _log.debug("cannot read results: %s", exc)
                self._unread.clear()
                at_once = max(1, at_once // 10)
            self._to_read.clear()

    async def _read_now(self, ids: Sequence[str]) -> None:
        wanted = [task_id for task_id in ids if task_id in self._followed]
        for task_id in wanted:
            self._followed[task_id].takes_read = True
        if not wanted:
            return
        self._observer.polled()
        replies = await self._commands((b"MGET", *(self._channel(task_id) for task_id in wanted)))
        payloads: list[bytes | None] = replies[0]
        woken = 0
        for task_id, payload in zip(wanted, payloads, strict=True):
            followed = self._followed.get(task_id)
            if payload is not None and followed is not None and followed.takes_read:
                woken += self._deliver(task_id, payload)
                if woken == _WOKEN_AT_ONCE:
                    woken = 0
                    await asyncio.sleep(0)

    # --- the subscription

    async def _keep_subscribed(self) -> None:
        """Subscribe, and again when the connection is lost; for ever."""
        pauses = _RECONNECT.pauses()
        is_reported = False
        while True:
            subscriptions = self._subscriptions
            try:
                await self._stay_subscribed()
            except Exception as exc:
                # Whatever it is: waiters still have the poll, and the next attempt may go well.
                if subscriptions == self._subscriptions and not is_reported:
                    is_reported = True
                    _log.warning("results are polled, not pushed, for now: cannot subscribe: %r", exc)
            if subscriptions != self._subscriptions:
                is_reported = False
                pauses = _RECONNECT.pauses()
            await asyncio.sleep(next(pauses))

    async def _stay_subscribed(self) -> None:
        """Connect, subscribe, and stay until the connection is lost, or is found dead.

        Raises:
            OSError, hiredis.HiredisError: it could not be made, or was lost.
        """
        async with asyncio.timeout(self._timeout):
            connection = await Connection.open(self._address, self._on_message)
        try:
            async with asyncio.timeout(self._timeout):
                await connection.call((b"PSUBSCRIBE", _literal(self._channel(self._own_prefix)) + b"*"))
            # From here on, who begins to follow subscribes too.
            self._connection = connection
            foreign = [task_id for task_id in self._followed if self._is_foreign(task_id)]
            for channels in _chunks(foreign):
                async with asyncio.timeout(self._timeout):
                    await self._call(connection, b"SUBSCRIBE", channels)
            self._heard.miss()
            self._subscriptions += 1
            self._listens = True
            self._read(task_id for task_id, followed in self._followed.items() if not followed.is_final)
            await self._watch(connection)
        finally:
            self._connection = None
            self._listens = False
            connection.abort("not needed any more")

    async def _watch(self, connection: Connection) -> None:
        """Ask a silent connection whether it lives; return never.

        Raises:
            OSError: it does not.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.wait({connection.lost}, timeout=self._health_check_interval)
            asked_at = loop.time()
            if connection.lost.done():
                raise connection.lost.result()
            if connection.received_at <= asked_at - self._health_check_interval:
                answer = connection.call((b"PING",))
                answer.add_done_callback(_heed)
                await asyncio.wait({answer}, timeout=self._timeout)
                # Or it is busy: what comes before the answer may be much.
                if not answer.done() and connection.received_at < asked_at:
                    raise TimeoutError(f"no answer within {self._timeout:g} s")

    def _tell(
        self, name: bytes, ids: Sequence[str], *, then: Callable[[Sequence[str]], None] | None = None
    ) -> None:
        """Send a command about some channels, if there is a connection, and call `then` when it is confirmed.

        If there is none, or it is lost before, the next one will subscribe to what is followed by then.
        """
        connection = self._connection
        if connection is None or connection.lost.done():
            return
        for channels in _chunks(ids):
            answer = self._call(connection, name, channels)
            answer.add_done_callback(_heed if then is None else partial(_on_success, then, channels))

    def _call(self, connection: Connection, name: bytes, ids: Sequence[str]) -> "asyncio.Future[list[Any]]":
        # Each channel is confirmed by itself.
        return connection.call((name, *(self._channel(task_id) for task_id in ids)), replies=len(ids))

    def _channel(self, task_id: str) -> bytes:
        return self._key_prefix + task_id.encode()


class _Followed:
    """A task that somebody follows."""

    __slots__ = ("followers", "is_final", "seen", "since", "takes_read")

    def __init__(self, since: float) -> None:
        self.followers: set[_Follower | _Waiter] = set()
        self.since = since
        """The loop's time."""
        self.seen: int | None = None
        """The hash of what was handed over last."""
        self.is_final = False
        """Whether that was the end of it, so that there is nothing left to poll for."""
        self.takes_read = False
        """Whether what is being read for it is news: nothing has been pushed since it was asked for."""


class _Follower:
    """One `follow`: the latest payload of each task that it has not taken yet, so never more than one each."""

    __slots__ = ("payloads", "ready")

    def __init__(self) -> None:
        self.payloads: dict[str, bytes] = {}
        self.ready = asyncio.Event()

    def hear(self, task_id: str, payload: bytes) -> None:
        """Take what is stored for a task."""
        self.payloads[task_id] = payload
        self.ready.set()

    def wake(self) -> None:
        """Have it look."""
        self.ready.set()


class _Waiter:
    """One `ending`, with a future in place of what a follower of many needs.

    `news` ends when there is something to look at: a payload, or that the time is up.
    """

    __slots__ = ("has_given_up", "news", "payload")

    def __init__(self, news: "asyncio.Future[None]") -> None:
        self.news = news
        self.payload: bytes | None = None
        self.has_given_up = False

    def hear(self, _: str, payload: bytes) -> None:
        """See `_Follower`."""
        self.payload = payload
        self.wake()

    def give_up(self) -> None:
        """Wait no longer."""
        self.has_given_up = True
        self.wake()

    def wake(self) -> None:
        """See `_Follower`."""
        if not self.news.done():
            self.news.set_result(None)


def _heed(answer: "asyncio.Future[list[Any]]") -> bool:
    """Return whether the answer is good; asyncio complains of errors that nobody has looked at."""
    return not answer.cancelled() and answer.exception() is None


def _on_success(
    then: Callable[[Sequence[str]], None], ids: Sequence[str], answer: "asyncio.Future[list[Any]]"
) -> None:
    if _heed(answer):
        then(ids)


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _KEYS_AT_ONCE] for start in range(0, len(ids), _KEYS_AT_ONCE))


def _literal(text: bytes) -> bytes:
    """Escape what a Redis pattern would not take literally."""
    return b"".join(b"\\" + bytes([char]) if char in b"*?[]\\" else bytes([char]) for char in text)
