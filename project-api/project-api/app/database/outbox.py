"""The outbox: tasks that are sent because, and only if, a transaction was committed.

How it works: `add` writes the message into the transaction that needs the task, under the id that the task will
have. The relay of this process (`app/relay.py`) hears of the commit (`hear_commits`), takes messages with their
rows locked, and deletes what the broker has confirmed in the same transaction; other relays skip locked rows.
When a relay dies in between, the rows stay, and another one sends them again under the same ids.

Writers do not NOTIFY: PostgreSQL lets such transactions commit one by one, each with its own wait for the disk (a
lock on all of them, taken before the commit is written). 16 writers at a time commit 7 times as fast without it.
Only relays do, when they want others' help.

What belongs here: the table `outbox`, and what announces its messages.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import delete, event, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from app.core import context
from project_contracts.contract import Payload, TaskContract
from project_database.tables import OutboxMessage

P = TypeVar("P", bound=Payload)

CHANNEL = "outbox"
"""What relays listen to: there are messages. Whoever else writes some, by hand say, may NOTIFY it."""

LONGEST_SILENCE = 10_000
"""ms; a relay that holds messages and says nothing for so long is cut off, so that another one sends them. It is
well above the time-out of a publish, the only thing that a relay does meanwhile."""

_ADDED = "outbox"
"""Where a session keeps the ids of the messages that its transaction has added (`Session.info`)."""


@event.listens_for(Session, "after_commit")
def _note_tasks(session: Session) -> None:
    """Have the request's log line name its tasks: not before now, they are sent only if this was committed."""
    for task_id in _committed(session):
        context.note_task(task_id)


def _committed(session: Session) -> Sequence[str]:
    """Return which messages a session has, at its commit, committed."""
    return () if session.in_nested_transaction() else session.info.get(_ADDED, ())


@contextmanager
def hear_commits(hear: Callable[[], object]) -> Iterator[None]:
    """Meanwhile, call `hear` whenever a transaction of this process has committed messages."""

    def committed(session: Session) -> None:
        if _committed(session):
            hear()

    event.listen(Session, "after_commit", committed)
    try:
        yield
    finally:
        event.remove(Session, "after_commit", committed)


@dataclass(frozen=True, kw_only=True)
class Message:
    """A task to be sent; `id` is the task's, `created_at` when its transaction began."""

    id: UUID
    name: str
    queue: str
    kwargs: Mapping[str, Any]
    headers: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What is in the outbox: messages that wait, those set aside, and for how long the oldest has waited."""

    waiting: int
    set_aside: int
    oldest: float  # s; 0 when none waits


class Outbox:
    """The messages, as one transaction sees them."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, task_id: str, contract: TaskContract[P, Any], payload: P) -> None:
        """Have a task sent if this transaction is committed.

        Args:
            task_id: a new id (`AsyncCelery.new_task_id`).
            contract: which task. Its arguments travel as JSON.
            payload: its arguments, validated.

        Raises:
            ValueError: the contract's arguments travel as pickle, which is signed for a time only.
        """
        if contract.serializer != "json":
            raise ValueError(f"{contract.name}: the outbox keeps JSON, its arguments travel otherwise; send it")
        await self._session.execute(
            insert(OutboxMessage).values(
                id=UUID(task_id),
                name=contract.name,
                queue=contract.queue,
                kwargs=payload.model_dump(mode="json"),
                headers=context.message_headers(),
            )
        )
        self._session.info.setdefault(_ADDED, []).append(task_id)

    async def take(self, limit: int) -> Sequence[Message]:
        """Return the oldest messages and lock them, but for those that another relay has locked."""
        await self._session.execute(
            select(func.set_config("idle_in_transaction_session_timeout", str(LONGEST_SILENCE), True))
        )
        rows = await self._session.scalars(
            select(OutboxMessage)
            .where(OutboxMessage.error.is_(None))
            .order_by(OutboxMessage.position)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return [
            Message(
                id=row.id,
                name=row.name,
                queue=row.queue,
                kwargs=row.kwargs,
                headers=row.headers,
                created_at=row.created_at,
            )
            for row in rows
        ]

    async def backlog(self) -> Backlog:
        """Return how much there is, those included that a relay is sending just now."""
        waits = OutboxMessage.error.is_(None)
        since = func.min(OutboxMessage.created_at).filter(waits)
        row = (
            await self._session.execute(
                select(
                    func.count().filter(waits),
                    func.count().filter(~waits),
                    func.coalesce(func.extract("epoch", func.clock_timestamp() - since), 0),
                ).select_from(OutboxMessage)
            )
        ).one()
        return Backlog(waiting=row[0], set_aside=row[1], oldest=max(0.0, float(row[2])))

    async def call_relays(self) -> None:
        """Have every relay look at the outbox, once this transaction is committed."""
        await self._session.execute(select(func.pg_notify(CHANNEL, "")))

    async def delete(self, ids: Collection[UUID]) -> None:
        """Forget messages that the broker has."""
        await self._session.execute(delete(OutboxMessage).where(OutboxMessage.id.in_(ids)))

    async def set_aside(self, message_id: UUID, error: str) -> None:
        """Keep a message that can never be sent, out of the way of the others.

        Args:
            message_id: which one.
            error: why it cannot be sent; clearing it has the message sent.
        """
        await self._session.execute(
            update(OutboxMessage).where(OutboxMessage.id == message_id).values(error=error)
        )
