"""The inbox: effects in the database that happen once, however often their task runs.

How it works: a message may arrive twice (a worker died before it acknowledged, a relay before it deleted), always
under the same task id. A task writes its id into the table `inbox` in the transaction of its effect: both are
committed, or neither is. A second run finds the id and has no effect; one that runs at the same time waits for
the first one's end. The API's housekeeping deletes old ids (`project-api/app/database/housekeeping.py`).

What belongs here: the table `inbox`.
"""

from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from project_database.tables import InboxEntry


class Inbox:
    """The tasks whose effects are in the database."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def is_first_run(self, task_id: str) -> bool:
        """Return whether the task has had no effect yet; if so, this transaction is to have it.

        Call it before the effect.

        Args:
            task_id: the running task's.

        Raises:
            LockTimeout: another run of the task is under way, and takes long.
        """
        entered = await self._session.scalar(
            insert(InboxEntry)
            .values(task_id=UUID(task_id))
            .on_conflict_do_nothing()
            .returning(InboxEntry.task_id)
        )
        return entered is not None
