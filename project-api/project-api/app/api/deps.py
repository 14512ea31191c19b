"""What endpoints ask for, by type annotation: `ProducerDep`, `ReplyDep`, `TaskIdDep`, ….

How it works: `create_app` puts one `Resources` on the app's state; each dependency hands out a part of it.

What belongs here: FastAPI dependencies. No logic beyond picking and checking.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Path, Request
from starlette.exceptions import HTTPException

from app.api.preferences import Preference, parse_prefer
from app.api.replies import ASYNC_SUFFIX, Patience, Reply
from app.celery.journal import Journal
from app.celery.producer import Producer
from app.core.config import Settings
from app.database.session import Database
from async_celery import AsyncCelery
from async_celery.dead_letters import DeadLetters


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What lives as long as the process: made in the lifespan, closed by it."""

    settings: Settings
    client: AsyncCelery
    journal: Journal
    producer: Producer
    dead_letters: DeadLetters
    database: Database
    shutdown: asyncio.Event


def get_resources(request: Request) -> Resources:
    """Return the process's resources."""
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(get_resources)]


def get_producer(resources: ResourcesDep) -> Producer:
    """Return the process's producer."""
    return resources.producer


def get_client(resources: ResourcesDep) -> AsyncCelery:
    """Return the process's client, for what is no single task's."""
    return resources.client


def get_dead_letters(resources: ResourcesDep) -> DeadLetters:
    """Return what reads the dead letters."""
    return resources.dead_letters


def get_journal(resources: ResourcesDep) -> Journal:
    """Return the process's journal."""
    return resources.journal


def get_patience(request: Request, resources: ResourcesDep) -> Patience:
    """Return what waits on behalf of this request."""
    return Patience(request=request, shutdown=resources.shutdown)


async def get_reply(
    request: Request,
    resources: ResourcesDep,
    prefer: Annotated[
        list[str] | None,
        Header(
            description="`respond-async`, `wait=N` (seconds), or both (RFC 7240); with `cancel-on-disconnect`, "
            "closing the connection while the API waits cancels the task",
            examples=[["wait=5"]],
        ),
    ] = None,
) -> Reply:
    """Return how this request's client wants its answer.

    Raises:
        BackendError: the client wants to wait, and there would be no result to wait for. Nothing is sent then.
    """
    twin = request.url.path.endswith(ASYNC_SUFFIX)
    reply = Reply(
        patience=get_patience(request, resources),
        journal=resources.journal,
        preference=Preference(respond_async=True) if twin else parse_prefer(prefer or []),
        default_wait=resources.settings.result_wait_seconds,
        max_wait=resources.settings.result_wait_max_seconds,
    )
    if reply.wait > 0:
        await resources.client.ping_backend()
    return reply


def get_task_id(
    request: Request, task_id: Annotated[UUID, Path(description="a task's or a workflow's id")]
) -> str:
    """Return the path's task id in its canonical form."""
    request.state.task_id = str(task_id)
    return str(task_id)


def require_json(request: Request) -> None:
    """Refuse a body that is not declared as JSON (415)."""
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if has_body and media_type != "application/json":
        raise HTTPException(415, "send the body as JSON, with Content-Type: application/json")


ClientDep = Annotated[AsyncCelery, Depends(get_client)]
DeadLettersDep = Annotated[DeadLetters, Depends(get_dead_letters)]
JournalDep = Annotated[Journal, Depends(get_journal)]
ProducerDep = Annotated[Producer, Depends(get_producer)]
PatienceDep = Annotated[Patience, Depends(get_patience)]
ReplyDep = Annotated[Reply, Depends(get_reply)]
TaskIdDep = Annotated[str, Depends(get_task_id)]
