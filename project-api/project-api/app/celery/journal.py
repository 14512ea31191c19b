"""What the API itself knows of a task's life: when it was accepted, confirmed, and its end delivered.

How it works: noting is a line in a dict. Whatever was noted within 100 ms is written to Redis as one pipeline,
beside the results; so a request neither waits for it nor fails by it. What cannot be kept is dropped and counted:
more than `MAX_PENDING` tasks at a time, or anything while Redis is down. `GET /v1/tasks/{id}/timeline` reads it.

What belongs here: noting and writing these times. What is made of them is in `timeline.py`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import Context

from async_celery import AsyncCelery, AsyncCeleryError, TaskError

logger = logging.getLogger("app.journal")

ACCEPTED, CONFIRMED, DELIVERED = "accepted", "confirmed", "delivered"

MAX_PENDING = 1000
"""How many tasks may wait to be written: 10,000 a second; a pipeline of them holds the loop up for some 5 ms."""

_INTERVAL = 0.1  # s


class Journal:
    """Notes when things happened, and writes it behind everybody's back. Made by `open_journal`."""

    def __init__(self, client: AsyncCelery) -> None:
        self.dropped = 0
        """How many tasks' times could not be kept."""
        self._client = client
        self._pending: dict[str, dict[str, float]] = {}
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._is_writing_well = True

    def sent(self, task_id: str, *, accepted: float) -> None:
        """Note that the broker has just confirmed a task or workflow.

        Args:
            task_id: its id.
            accepted: when it was accepted, in s since 1970.
        """
        self._note(task_id, {ACCEPTED: accepted, CONFIRMED: time.time()})

    def delivered(self, task_id: str) -> None:
        """Note that a client is told the end of a task now; only the first time counts."""
        self._note(task_id, {DELIVERED: time.time()})

    @contextlib.contextmanager
    def delivery(self, task_id: str) -> Iterator[None]:
        """Note that a client is told the end of a task, when this block gets a result or a `TaskError`."""
        try:
            yield
        except TaskError:
            self.delivered(task_id)
            raise
        self.delivered(task_id)

    async def aclose(self) -> None:
        """Write what is pending."""
        self._closing.set()
        if self._writer is not None:
            await self._writer

    def _note(self, task_id: str, times: dict[str, float]) -> None:
        if known := self._pending.get(task_id):
            self._pending[task_id] = times | known
        elif len(self._pending) < MAX_PENDING:
            self._pending[task_id] = times
        else:
            self.dropped += 1
        if self._writer is None:
            # In a context of its own: its log lines are not about this request.
            self._writer = asyncio.create_task(self._write(), name="journal", context=Context())

    async def _write(self) -> None:
        while self._pending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._closing.wait()
            batch, self._pending = self._pending, {}
            try:
                await self._client.note_times(batch)
            except AsyncCeleryError as error:
                self.dropped += len(batch)
                if self._is_writing_well:
                    logger.warning("timelines lose what the API knows until Redis answers again: %s", error)
                self._is_writing_well = False
            else:
                self._is_writing_well = True
        self._writer = None


@contextlib.asynccontextmanager
async def open_journal(client: AsyncCelery) -> AsyncIterator[Journal]:
    """Yield a journal; write what is pending at the end."""
    journal = Journal(client)
    try:
        yield journal
    finally:
        await journal.aclose()
