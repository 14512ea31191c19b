"""Answers that are given again: kept in the transaction that wrote what they tell of.

How it works: a transaction that works a request with a key holds an advisory lock named after the key, so of any
number of requests one works. Its answer is committed with its rows, or neither is: a process that dies leaves
nothing behind, and a repeat starts anew. The lock ends with the transaction.

What belongs here: the table `idempotency_keys`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from app.core.idempotency import LIFETIME, Fingerprint, KeyInProgressError, KeyReusedError
from app.database.session import Session
from project_database.tables import IdempotencyKey

_LIFETIME = timedelta(seconds=LIFETIME)


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class StoredAnswers:
    """The answers that one transaction sees, and adds to."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def claim(self, key: str, fingerprint: Fingerprint) -> StoredAnswer | None:
        """Return the key's answer; None if there is none: from now on the key is this transaction's.

        Raises:
            KeyReusedError: the answer is another request's.
            KeyInProgressError: another transaction works a request with the key.
        """
        lock = func.pg_try_advisory_xact_lock(func.hashtextextended(f"idempotency:{key}", 0))
        if not await self._session.scalar(select(lock)):
            raise KeyInProgressError
        # A statement of its own: it sees what was committed before the lock was free.
        found = await self._session.scalar(
            select(IdempotencyKey).where(
                IdempotencyKey.key == key, IdempotencyKey.created_at > func.now() - _LIFETIME
            )
        )
        if found is None:
            return None
        if found.fingerprint != fingerprint.digest():
            raise KeyReusedError
        return StoredAnswer(status=found.status, headers=found.headers, body=found.body)

    async def add(self, key: str, fingerprint: Fingerprint, answer: StoredAnswer) -> None:
        """Keep the answer to a request whose key is this transaction's."""
        values = {
            "fingerprint": fingerprint.digest(),
            "status": answer.status,
            "headers": dict(answer.headers),
            "body": answer.body,
            "created_at": func.now(),
        }
        # What is there has expired and waits for housekeeping.
        statement = insert(IdempotencyKey).values(key=key, **values)
        await self._session.execute(statement.on_conflict_do_update(index_elements=["key"], set_=values))
