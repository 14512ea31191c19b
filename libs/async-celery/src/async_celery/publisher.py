"""The broker of AMQP: publishes from asyncio, over one connection, every message confirmed.

How it works: a message is admitted, encoded (`message.py`), and waits as a `Letter` until it has ended. All that
is sent in one turn of the loop is encoded and written at the end of it, in one go: the same code, for one message
after the other, takes half the time. Letters go to the `Session`, the connection as it is now, as long as fewer
than `max_in_flight` are unconfirmed there; the others wait in line. One task keeps a session: it connects when
first needed, and again after a loss, with jittered backoff, to the next server if there are several. What was
unconfirmed then is sent again, under the same ids, before anything else; so a message may reach its queue twice,
never not at all. One timer ends what is past its deadline.

While there is no connection: before the first attempt has ended, and right after a loss, sends wait. Once an
attempt has failed, what has not been sent fails at once, and so does every new send until an attempt succeeds.
What had been sent before the loss waits on for its deadline, for nobody knows yet whether the broker has it.

What belongs here: who may send, in which order, until when, and what the caller is told. What happens within one
connection is `session.py`'s.
"""

import asyncio
import os
import platform
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context, copy_context

from celery import Celery

from async_celery import amqp
from async_celery.backoff import Backoff
from async_celery.endpoints import endpoints_of
from async_celery.errors import Blocked, PublishError, PublishTimeout, TransportError
from async_celery.message import Encoded, Encoder
from async_celery.observation import NOBODY, Observer, PublishOutcome
from async_celery.recording import CeleryRecorder
from async_celery.session import Letter, Session
from async_celery.types import Publication, TaskMessage

RECONNECT = Backoff(first=0.05, factor=2, limit=2.0, jitter=0.5)
"""Soon after a loss, but not all clients at once."""
# A wrong password does not become right by trying; a permission that an operator gives back is noticed soon.
_LOGIN_PAUSE = 5.0  # s
_CLOSE_TIMEOUT = 1.0  # s
# How long the loop may be kept by a workflow.
_SLICE = 0.005  # s


class AmqpBroker:
    """Implements `types.Broker`. Belongs to the event loop on which it is first used."""

    def __init__(
        self,
        celery_app: Celery,
        *,
        recorder: CeleryRecorder,
        publish_timeout: float,
        max_in_flight: int = 1000,
        max_waiting: int = 4000,
        max_message_bytes: int = 15 << 20,
        reconnect: Backoff = RECONNECT,
        observer: Observer = NOBODY,
    ) -> None:
        """Read the settings. Opens no connection.

        Args:
            celery_app: the caller's; `endpoints.py` lists the settings that count.
            recorder: says what Celery would send.
            publish_timeout: in s, how long a message may take until it is confirmed.
            max_in_flight: how many messages may be unconfirmed.
            max_waiting: how many more may wait for their turn; a send beyond fails at once.
            max_message_bytes: of a message's body. RabbitMQ 4 closes the channel on more than 16 MiB.
            reconnect: the pauses between attempts to connect.
            observer: is told what becomes of messages and of the connection.

        Raises:
            ValueError: a broker URL that cannot be understood.
        """
        self._endpoints = endpoints_of(celery_app)
        self._shuffle = celery_app.conf.broker_failover_strategy == "shuffle"
        self._recorder = recorder
        self._encoder = Encoder(recorder=recorder, max_body_bytes=max_message_bytes)
        self._publish_timeout = publish_timeout
        self._reconnect = reconnect
        self._observer = observer
        self._max_in_flight = max_in_flight
        self._max_open = max_in_flight + max_waiting
        self._name = celery_app.main or "client"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._was_connected = False
        self._settled = asyncio.Event()  # there is a session, or the last attempt has failed
        self._down: amqp.ConnectionLost | None = None  # why the last attempt failed
        self._next_attempt = 0.0  # s, in the loop's time
        self._open: dict[Letter, None] = {}  # all that have not ended, oldest first
        self._unencoded: list[tuple[Letter, TaskMessage, Context]] = []  # those of this turn of the loop
        self._sends_soon = False
        self._deadline = 0.0  # of what is admitted in this turn of the loop, in its time
        self._waiting: deque[Letter] = deque()  # those of them that no session has
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._empty = asyncio.Event()

    async def publish(self, message: TaskMessage) -> None:
        """See `Broker`."""
        letter = self._admit(message.task_id, message.name, message.queue)
        # Whoever listens to Celery's signals meets the message in the context of its sender.
        self._unencoded.append((letter, message, copy_context()))
        # As `_end_of`, which would be one more coroutine for every send.
        try:
            await letter.future
        finally:
            self._release(letter)

    async def publish_all(
        self, publications: Sequence[Publication], *, after: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """See `Broker`. Nothing is published if one cannot be encoded."""
        # Before the work of encoding. What is refused here counts as one message: no other was tried.
        self._check_told(None, *_subject(publications[0]) if publications else (None, ""))
        # In a task of its own, so that `after` begins at once.
        encoding = asyncio.create_task(self._encode_all(publications))
        # Nobody may be left to hear of a failure.
        encoding.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            if after is not None:
                await after()
            messages = await encoding
        finally:
            encoding.cancel()
        letters: deque[Letter] = deque()
        slices = _Slices()
        try:
            for publication, message in zip(publications, messages, strict=True):
                if len(letters) >= self._max_in_flight:
                    await self._end_of(letters.popleft())
                letters.append(letter := self._admit(publication.task_id, *_subject(publication)))
                letter.place, letter.frames = message
                self._hand_over((letter,))
                await slices.pause_if_due()
            while letters:
                await self._end_of(letters.popleft())
        finally:
            for letter in letters:
                self._release(letter)
                if not letter.future.cancelled():
                    letter.future.exception()  # the first one is told, these are only looked at

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool) -> None:
        """See `Broker`."""
        await self.publish_all([self._recorder.revocation(task_ids, terminate=terminate)])

    async def ping(self) -> None:
        """See `Broker`."""
        try:
            async with asyncio.timeout(self._publish_timeout):
                while True:
                    self._check(None)
                    if self._session is None:
                        await self._settled.wait()
                    elif await self._is_answered(self._session):
                        return
        except TimeoutError as exc:
            raise PublishError(f"the broker did not answer within {self._publish_timeout:g} s") from exc
        except amqp.ChannelClosed as exc:
            raise PublishError(f"the broker refuses to answer: {exc}") from exc

    async def _is_answered(self, session: Session) -> bool:
        """Make a round trip; when it turns out that the connection has been lost, wait for what comes of that."""
        try:
            await session.ping()
        except amqp.ConnectionLost:
            while self._session is session:
                await session.end()
                await asyncio.sleep(0)
            return False
        return True

    async def aclose(self) -> None:
        """See `Broker`."""
        self._closed = True
        if self._keeper is None or self._keeper.done():
            return
        while self._open:
            # Each ends by its deadline.
            self._empty.clear()
            await self._empty.wait()
        self._keeper.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        session, self._session = self._session, None
        if session is not None:
            self._observer.disconnected()
            await session.close(_CLOSE_TIMEOUT)
        await asyncio.gather(self._keeper, return_exceptions=True)

    # Who may send.

    def _check(self, task_id: str | None) -> None:
        """Refuse at once what could not be sent anyway.

        Raises:
            TransportError, PublishError: why.
        """
        if self._closed:
            raise TransportError("this AsyncCelery is closed: make a new one")
        if self._loop is not asyncio.get_running_loop():
            self._start()
        if self._down is not None:
            raise self._unreachable(self._down, task_id)
        session = self._session
        if session is not None and session.blocked is not None:
            raise _blocked(session.blocked, task_id)
        if len(self._open) >= self._max_open:
            raise Blocked(
                f"{len(self._open)} messages wait for the broker already: send again later", task_id=task_id
            )

    def _check_told(self, task_id: str | None, task: str | None, queue: str) -> None:
        """Do as `_check`, and tell the observer what is refused."""
        try:
            self._check(task_id)
        except TransportError:
            self._tell_unsent(task, queue)
            raise

    def _tell_unsent(self, task: str | None, queue: str) -> None:
        if task is not None:
            self._observer.published(task, queue, PublishOutcome.ERROR, 0.0, 0)

    def _start(self) -> None:
        if self._loop is not None:
            raise RuntimeError(
                "an AsyncCelery belongs to the event loop it is first used on: make one for each loop"
            )
        self._loop = asyncio.get_running_loop()
        self._keeper = self._loop.create_task(self._keep_session(), name="async-celery broker")

    def _admit(self, task_id: str | None, task: str | None, queue: str) -> Letter:
        """Take a message in, from now on until `_release`.

        Raises:
            TransportError, PublishError: as `_check`.
        """
        # What else is wrong within this turn of the loop, the message will be told at the end of it.
        if not self._sends_soon or len(self._open) >= self._max_open:
            self._check_told(task_id, task, queue)
            self._send_soon()
        loop = self._loop
        assert loop is not None  # noqa: S101 (for mypy: `_check` has set it)
        letter = Letter(task_id, task, queue, loop.create_future(), self._deadline)
        self._open[letter] = None
        if self._sweeper is None:
            self._sweeper = loop.call_at(letter.deadline, self._sweep)
        return letter

    def _send_soon(self) -> None:
        """Have `_send` called at the end of this turn of the loop, for all that is admitted until then."""
        if not self._sends_soon:
            assert self._loop is not None  # noqa: S101 (for mypy: `_check` has set it)
            self._sends_soon = True
            self._deadline = self._loop.time() + self._publish_timeout
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._sends_soon = False
        unencoded, self._unencoded = self._unencoded, []
        encode = self._encoder.task
        letters = []
        for letter, message, context in unencoded:
            if letter.future.done():
                continue
            try:
                letter.place, letter.frames = context.run(encode, message)
            except Exception as exc:
                # Whatever it is, it is the sender's own.
                letter.fail(exc)
            else:
                letters.append(letter)
        self._hand_over(letters)
        if self._session is not None:
            self._session.flush()

    def _hand_over(self, letters: Sequence[Letter]) -> None:
        """Give letters to the session, and let those wait that it has no room for."""
        taken = 0
        if self._session is not None and not self._waiting:
            taken = self._session.take(letters)
        for letter in letters[taken:]:
            self._line_up(letter)

    def _line_up(self, letter: Letter) -> None:
        """Let it wait for its turn, or fail where that will not come soon."""
        if self._down is not None:
            letter.fail(self._unreachable(self._down, letter.task_id))
            return
        if len(self._waiting) > 2 * self._max_open:
            # What was given up stays in line until its turn, which may not come for long.
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.future.done())
        self._waiting.append(letter)
        self._pump()

    async def _end_of(self, letter: Letter) -> None:
        try:
            await letter.future
        finally:
            self._release(letter)

    def _release(self, letter: Letter) -> None:
        """Forget a letter that has ended, or that nobody waits for any more."""
        letter.future.cancel()
        del self._open[letter]
        if self._closed and not self._open:
            self._empty.set()
        # Worked out for nobody, it would be a fiftieth of all that a send costs.
        if self._observer is not NOBODY and letter.task is not None:
            assert self._loop is not None  # noqa: S101 (for mypy: `_check` has set it)
            seconds = self._loop.time() - letter.deadline + self._publish_timeout
            self._observer.published(letter.task, letter.queue, _outcome(letter), seconds, len(letter.frames))

    async def _encode_all(self, publications: Sequence[Publication]) -> list[Encoded]:
        encoded = []
        slices = _Slices()
        for publication in publications:
            try:
                encoded.append(self._encoder.publication(publication))
            except Exception:
                self._tell_unsent(*_subject(publication))
                raise
            await slices.pause_if_due()
        return encoded

    # In which order, and until when.

    def _on_progress(self) -> None:
        """Use what has become free. Whom the confirms wake now may send again, before `_send` is called."""
        self._pump()
        self._send_soon()

    def _pump(self) -> None:
        """Give the session what it has room for."""
        session, waiting = self._session, self._waiting
        if session is None:
            return
        if session.blocked is not None:
            self._fail_unsent(lambda letter: _blocked(str(session.blocked), letter.task_id))
            return
        while waiting and (waiting[0].future.done() or session.take((waiting[0],))):
            waiting.popleft()
        session.flush()

    def _give_back(self, letters: Iterable[Letter]) -> None:
        """Put letters that a session had before all that wait."""
        self._waiting.extendleft(reversed(list(letters)))
        self._pump()

    def _sweep(self) -> None:
        """End what is past its deadline. All letters have the same time, so the oldest is the first."""
        assert self._loop is not None  # noqa: S101 (for mypy: `_admit` has set this timer)
        now = self._loop.time()
        self._sweeper = None
        for letter in self._open:
            if letter.deadline > now:
                self._sweeper = self._loop.call_at(letter.deadline, self._sweep)
                break
            if not letter.future.done():
                letter.future.set_exception(self._overdue(letter))

    def _overdue(self, letter: Letter) -> PublishError:
        within = f"within {self._publish_timeout:g} s"
        if letter.sent:
            return PublishTimeout(
                f"the broker did not answer {within}: the message may or may not have been taken; sending it "
                "again under the same task id is safe",
                task_id=letter.task_id,
            )
        if self._session is None:
            return PublishError(
                f"the broker is not reachable: no connection {within}; nothing was sent", task_id=letter.task_id
            )
        return Blocked(
            f"the broker did not get to the message {within}: nothing was sent", task_id=letter.task_id
        )

    def _fail_unsent(self, error: Callable[[Letter], PublishError]) -> None:
        kept = []
        for letter in self._waiting:
            if letter.sent:
                kept.append(letter)
            else:
                letter.fail(error(letter))
        self._waiting = deque(kept)

    # The connection.

    async def _keep_session(self) -> None:
        """Connect, and again whenever the connection is lost, until cancelled."""
        pauses = self._reconnect.pauses()
        suspects: list[Letter] = []
        while True:
            try:
                session = await self._connect()
            except amqp.ConnectionLost as exc:
                pause = next(pauses)
                if isinstance(exc, amqp.LoginRefused):
                    pause = max(pause, _LOGIN_PAUSE)
                self._go_down(exc, pause)
                await asyncio.sleep(pause)
                continue
            if suspects:
                session.try_first(suspects)
            self._go_up(session)
            reason = await session.end()
            self._session = None
            self._observer.disconnected()
            self._settled.clear()
            letters = session.unfinished()
            suspects = []
            if isinstance(reason, amqp.ConnectionBroken):
                suspects = [letter for letter in letters if letter.sent]
                letters = [letter for letter in letters if not letter.sent]
            self._give_back(letters)
            if session.has_confirmed:
                pauses = self._reconnect.pauses()
            await asyncio.sleep(next(pauses))

    async def _connect(self) -> Session:
        """Try every server once.

        Raises:
            ConnectionLost, LoginRefused: what the last one said.
        """
        endpoints = list(self._endpoints)
        if self._shuffle:
            random.shuffle(endpoints)
        client_properties = {
            "product": "async-celery",
            "platform": f"Python {platform.python_version()}",
            "connection_name": f"async-celery: {self._name}, pid {os.getpid()} on {platform.node()}",
        }
        for endpoint in endpoints:
            # The next attempt begins with the next server.
            self._endpoints = (*self._endpoints[1:], self._endpoints[0])
            try:
                return await Session.open(
                    endpoint,
                    client_properties,
                    max_in_flight=self._max_in_flight,
                    give_back=self._give_back,
                    on_progress=self._on_progress,
                )
            except amqp.ConnectionLost as exc:
                error = exc
        raise error

    def _go_up(self, session: Session) -> None:
        self._session = session
        self._observer.connected(again=self._was_connected)
        self._was_connected = True
        self._down = None
        self._settled.set()
        self._pump()

    def _go_down(self, reason: amqp.ConnectionLost, pause: float) -> None:
        assert self._loop is not None  # noqa: S101 (for mypy: `_start` has set it)
        self._down = reason
        self._next_attempt = self._loop.time() + pause
        self._settled.set()
        self._fail_unsent(lambda letter: self._unreachable(reason, letter.task_id))

    def _unreachable(self, reason: amqp.ConnectionLost, task_id: str | None) -> PublishError:
        assert self._loop is not None  # noqa: S101 (for mypy: `_start` has set it)
        wait = max(0.0, self._next_attempt - self._loop.time())
        if isinstance(reason, amqp.LoginRefused):
            text = f"the broker refused the login: {reason}; check user, password and virtual host"
        else:
            text = f"the broker is not reachable: {reason}"
        error = PublishError(f"{text}; nothing was sent, the next attempt is in {wait:.1f} s", task_id=task_id)
        error.__cause__ = reason
        return error


class _Slices:
    """Cuts long work into slices, between which the loop has its turn."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + _SLICE

    async def pause_if_due(self) -> None:
        """Let others work, if this slice is over."""
        if self._loop.time() > self._end:
            await asyncio.sleep(0)
            self._end = self._loop.time() + _SLICE


def _subject(publication: Publication) -> tuple[str | None, str]:
    """Return the task's name, None for what is no task, and its queue."""
    options = publication.options
    return options.get("headers", {}).get("task"), options.get("routing_key", "")


def _outcome(letter: Letter) -> PublishOutcome:
    """Return how a letter has ended that is released."""
    future = letter.future
    if future.cancelled():
        return PublishOutcome.TIMEOUT if letter.sent else PublishOutcome.ERROR
    error = future.exception()
    return PublishOutcome.OK if error is None else PublishOutcome.of(error)


def _blocked(reason: str, task_id: str | None) -> Blocked:
    return Blocked(
        f"the broker takes no messages now ({reason}): nothing was sent, send again later", task_id=task_id
    )
