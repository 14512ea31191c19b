"""Sends tasks and workflows: the API's one way to the broker.

How it works: a validated payload goes out under its contract's name, queue and serializer; what comes back is a
handle whose result has the contract's type. A handle means that RabbitMQ has confirmed the message.

What belongs here: sending. Which tasks a workflow is made of is in `workflows.py`.
"""

import time
from typing import Any, TypeVar, overload

from celery import Celery
from celery.canvas import Signature, group
from pydantic import TypeAdapter

from app.celery.journal import Journal
from app.core import context
from async_celery import AsyncCelery, TaskHandle
from project_contracts.contract import Payload, TaskContract

P = TypeVar("P", bound=Payload)
R = TypeVar("R")


class Producer:
    """Sends what the endpoints ask for. One per process, made in the lifespan."""

    def __init__(self, celery: Celery, client: AsyncCelery, journal: Journal) -> None:
        self.celery = celery
        self._client = client
        self._journal = journal

    def new_task_id(self) -> str:
        """Return a new id, for what is written down under its task's id before it is sent."""
        return self._client.new_task_id()

    async def submit(
        self,
        contract: TaskContract[P, R],
        payload: P,
        *,
        expires: float | None = None,
        task_id: str | None = None,
    ) -> TaskHandle[R]:
        """Send one task.

        Args:
            contract: which task.
            payload: its arguments, validated.
            expires: seconds after which a task that has not started is dropped; the task deadline by default.
            task_id: one of `new_task_id`'s; a new one by default.

        Raises:
            PublishError: the broker did not take the message in time.
            PayloadError: the payload cannot be encoded.
        """
        accepted = time.time()
        handle = await self._client.send_task(
            contract.name,
            # Signed pickle takes the payload's own values: that is what it is for.
            kwargs=payload.model_dump(mode="json") if contract.serializer == "json" else dict(payload),
            queue=contract.queue,
            serializer=contract.serializer,
            task_id=task_id,
            expires=expires,
            headers=context.message_headers(),
            result_type=TypeAdapter(contract.result).validate_python,
        )
        self._journal.sent(handle.id, accepted=accepted)
        context.note_task(handle.id)
        return handle

    @overload
    async def submit_workflow(
        self, workflow: group, result: type[R], *, expires: float | None = None, task_id: str | None = None
    ) -> TaskHandle[list[R]]: ...

    @overload
    async def submit_workflow(
        self,
        workflow: Signature[Any],
        result: type[R],
        *,
        expires: float | None = None,
        task_id: str | None = None,
    ) -> TaskHandle[R]: ...

    async def submit_workflow(
        self,
        workflow: Signature[Any],
        result: type[R],
        *,
        expires: float | None = None,
        task_id: str | None = None,
    ) -> TaskHandle[Any]:
        """Send a workflow of `workflows.py`.

        Args:
            workflow: what to run.
            result: the type of the whole's result; of each member's for a group, which gives a list.
            expires: as for `submit`; no task of the workflow starts later.
            task_id: as for `submit`; the whole workflow's.

        Raises:
            PublishError: the broker did not take all its messages in time.
            BackendError: the workflow's record could not be written.
        """
        accepted = time.time()
        handle: TaskHandle[Any] = await self._client.submit(
            workflow, task_id=task_id, expires=expires, result_type=TypeAdapter(result).validate_python
        )
        self._journal.sent(handle.id, accepted=accepted)
        context.note_task(handle.id)
        return handle

    def handle(self, task_id: str, result: Any = None) -> TaskHandle[Any]:
        """Return a handle on a task sent earlier, by this process or another; nothing is looked up yet.

        Args:
            task_id: which task or workflow.
            result: the type of its result; it stays plain JSON by default.
        """
        return self._client.handle(task_id, None if result is None else TypeAdapter(result).validate_python)
