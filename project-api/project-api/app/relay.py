"""The relay: sends what committed transactions have put into the outbox.

How it works: one relay per API process. It is woken by the process's own commits and sends batch by batch, each
in one transaction that locks its messages, publishes them all at once under the ids they have, and deletes those
that the broker confirmed. What fails stays in its row and is tried again. When it cannot send, or there is more
than one batch, it calls the other processes' relays (NOTIFY, LISTEN). All look into the outbox every few seconds,
too: what a dead process left behind costs that long and no more.

    commit ── wakes ──► take, skip what is locked ► publish ► delete ► commit
                  ▲
    other relays ─┘ notify

What belongs here: the way from the outbox to the broker. The table is `app/database/outbox.py`'s.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from app.celery.journal import Journal
from app.core import context
from app.database.listening import listen
from app.database.outbox import CHANNEL, Message, Outbox, hear_commits
from async_celery import AsyncCelery, TransportError
from async_celery.backoff import Backoff
from project_contracts.headers import REQUEST_ID
from project_database.errors import DatabaseError
from project_database.sessions import Database

logger = logging.getLogger("app.relay")

BATCH = 100
"""How many messages are sent in one transaction: enough to make its commit cheap, few enough that its locks and
its connection are held for milliseconds."""

SWEEP_INTERVAL = 5.0
"""s; how late a message is sent of which no relay has heard."""

BACKOFF = Backoff(first=0.1, factor=2, limit=2, jitter=0.5)
"""Between two attempts while PostgreSQL or RabbitMQ is away: service resumes well within 10 s of their return."""


class Relay:
    """Sends the outbox's messages. Made by `open_relay`."""

    def __init__(self, database: Database, client: AsyncCelery, journal: Journal) -> None:
        self._database = database
        self._client = client
        self._journal = journal
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()

    def wake(self) -> None:
        """Say that there are messages."""
        self._wake.set()

    async def listen(self, listening: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Hear when other relays call, until cancelled.

        Args:
            listening: calls what it is given when it hears something; begun again whenever it fails.
        """
        outage = _Outage("other processes' messages are helped out with up to %g s late", SWEEP_INTERVAL)

        def hear() -> None:
            outage.end()
            self.wake()

        while True:
            try:
                await listening(hear)
            except Exception as error:  # whatever it was: nobody else would listen again
                await asyncio.sleep(outage.pause(error))

    async def send(self) -> None:
        """Send what there is and what comes, until `close` is called."""
        outage = _Outage("messages wait in the outbox until they can be sent")
        while not self._closing.is_set():
            self._wake.clear()
            try:
                while (batch := await self._send_batch()).is_full and not self._closing.is_set():
                    pass
            except Exception as error:  # whatever it was: nobody else would send the rest
                await _first_of(self._closing, outage.pause(error))
            else:
                # With nothing to send, nobody knows whether the broker is back.
                outage.end(of=Exception if batch.sent else DatabaseError)
                await _first_of(self._wake, SWEEP_INTERVAL)

    def close(self) -> None:
        """Have `send` end after the batch under way."""
        self._closing.set()
        self._wake.set()

    async def _send_batch(self) -> "_Batch":
        """Send the oldest messages.

        Raises:
            TransportError: the broker did not take all of them. The others are sent.
            DatabaseError: none is known to be sent.
        """
        async with self._database.transaction() as session:
            outbox = Outbox(session)
            messages = await outbox.take(BATCH)
            if not messages:
                return _Batch(sent=0, is_full=False)
            failures = await asyncio.gather(*map(self._publish, messages))
            sent: list[UUID] = []
            unsent: list[TransportError] = []
            for message, failure in zip(messages, failures, strict=True):
                if failure is None:
                    sent.append(message.id)
                elif isinstance(failure, TransportError):
                    unsent.append(failure)
                else:
                    await self._set_aside(outbox, message, failure)
            if sent:
                await outbox.delete(sent)
            is_full = len(messages) == BATCH
            if unsent or is_full:
                await outbox.call_relays()
        if unsent:
            raise unsent[0]
        return _Batch(sent=len(sent), is_full=is_full)

    async def _publish(self, message: Message) -> Exception | None:
        """Send a message; return what kept it from being sent."""
        task_id = str(message.id)
        try:
            await self._client.send_task(
                message.name,
                kwargs=message.kwargs,
                queue=message.queue,
                task_id=task_id,
                headers=message.headers,
            )
        except Exception as error:  # whatever it was: it must not hold up the others
            return error
        self._journal.sent(task_id, accepted=message.created_at.timestamp())
        return None

    async def _set_aside(self, outbox: Outbox, message: Message, failure: Exception) -> None:
        await outbox.set_aside(message.id, f"{type(failure).__name__}: {failure}")
        with context.on_behalf_of(message.headers.get(REQUEST_ID)):
            logger.error(
                "task %s (%s) can never be sent as it is: %s. It stays in the table outbox: mend the row and set "
                "its error to NULL, or delete it",
                message.id,
                message.name,
                failure,
            )


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """What was taken from the outbox at once."""

    sent: int
    is_full: bool
    """Whether there may be more."""


class _Outage:
    """A server that is away, perhaps: said once when it goes, once when it is back, whatever comes between."""

    def __init__(self, consequence: str, *arguments: object) -> None:
        self._consequence = consequence % arguments
        self._error: Exception | None = None
        self._pauses: Iterator[float] | None = None

    def pause(self, error: Exception) -> float:
        """Return how long to wait before the next attempt, in s."""
        self._error = error
        if self._pauses is None:
            is_known = isinstance(error, DatabaseError | TransportError)
            logger.warning("%s: %s", self._consequence, error, exc_info=None if is_known else error)
            self._pauses = BACKOFF.pauses()
        return next(self._pauses)

    def end(self, *, of: type[Exception] = Exception) -> None:
        """Note that an attempt went well, which the last error, if it was such a one, would have kept from it."""
        if self._pauses is not None and isinstance(self._error, of):
            logger.info("over: %s", self._consequence)
            self._pauses = None


async def _first_of(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or so many s have passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


@contextlib.asynccontextmanager
async def open_relay(
    database: Database,
    client: AsyncCelery,
    journal: Journal,
    *,
    url: str,
    timeout: float,  # noqa: ASYNC109  # of each answer, not of the whole
) -> AsyncIterator[None]:
    """Run a relay meanwhile; let the batch under way end.

    Args:
        database: where the outbox is.
        client: what sends.
        journal: what notes that a task was sent.
        url: the database's, for the connection that listens.
        timeout: in s, for that connection, and for one answer on it.
    """
    relay = Relay(database, client, journal)
    listening = partial(listen, url, CHANNEL, timeout=timeout)
    listener = asyncio.create_task(relay.listen(listening), name="outbox listener")
    sender = asyncio.create_task(relay.send(), name="outbox sender")
    try:
        with hear_commits(relay.wake):
            yield
    finally:
        relay.close()
        listener.cancel()
        await asyncio.gather(listener, sender, return_exceptions=True)
