"""One request's task or workflow: sent once, however often the client repeats the request under one key.

How it works: without an Idempotency-Key this is the producer. With one, the first request claims the key while it
sends (`idempotency.py`); what every request gets back is a handle on the same task, and waits for it by its own
`Prefer`. Waits that revoke do so for all: the first of them that is over ends the task, and the others learn that
it was revoked (409).

What belongs here: sending on behalf of a request.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from celery import Celery
from celery.canvas import Signature, group

from app.celery.idempotency import Claim, IdempotencyKeys
from app.celery.producer import Producer
from app.core.idempotency import Fingerprint
from async_celery import TaskHandle
from project_contracts.contract import Payload, TaskContract

P = TypeVar("P", bound=Payload)
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Sends what one request asks for.

    `key` is the request's Idempotency-Key; `fingerprint` has taken its body by the time of sending. `expires` is
    as for `Producer.submit`.
    """

    producer: Producer
    keys: IdempotencyKeys
    key: str | None
    fingerprint: Fingerprint
    expires: float | None

    @property
    def celery(self) -> Celery:
        """The app that a workflow's signatures are bound to."""
        return self.producer.celery

    async def send(self, contract: TaskContract[P, R], payload: P) -> TaskHandle[R]:
        """Send one task.

        Args:
            contract: which task.
            payload: its arguments, validated.

        Raises:
            PublishError, PayloadError: as `Producer.submit`.
            KeyReusedError, KeyInProgressError, BackendError: as `IdempotencyKeys.claimed`.
        """
        async with self._claimed() as claim:
            if claim.is_sent:
                return self.producer.handle(claim.task_id, contract.result)
            return await self.producer.submit(contract, payload, expires=self.expires, task_id=claim.task_id)

    @overload
    async def send_workflow(
        self, workflow: group, result: type[R], *, task_id: str | None = None
    ) -> TaskHandle[list[R]]: ...

    @overload
    async def send_workflow(
        self, workflow: Signature[Any], result: type[R], *, task_id: str | None = None
    ) -> TaskHandle[R]: ...

    async def send_workflow(
        self, workflow: Signature[Any], result: type[R], *, task_id: str | None = None
    ) -> TaskHandle[Any]:
        """Send a workflow of `workflows.py`.

        Args:
            workflow: what to run.
            result: the type of the whole's result; of each member's for a group, which gives a list.
            task_id: the workflow's id, where something is stored under it already. The handle's is another one
                when the key has a workflow.

        Raises:
            PublishError, BackendError: as `Producer.submit_workflow`.
            KeyReusedError, KeyInProgressError, BackendError: as `IdempotencyKeys.claimed`.
        """
        async with self._claimed(task_id) as claim:
            if claim.is_sent:
                whole: Any = list[result] if isinstance(workflow, group) else result  # type: ignore[valid-type]
                return self.producer.handle(claim.task_id, whole)
            return await self.producer.submit_workflow(
                workflow, result, expires=self.expires, task_id=claim.task_id
            )

    @contextlib.asynccontextmanager
    async def _claimed(self, task_id: str | None = None) -> AsyncIterator[Claim]:
        new_id = task_id or self.producer.new_task_id()
        if self.key is None:
            yield Claim(task_id=new_id, is_sent=False)
            return
        async with self.keys.claimed(
            self.key, self.fingerprint, new_id=new_id, replaces=task_id is not None
        ) as claim:
            yield claim
