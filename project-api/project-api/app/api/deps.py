"""What endpoints ask for, by type annotation: `ProducerDep`, `ReplyDep`, `TaskIdDep`, ….

How it works: `create_app` puts one `Resources` on the app's state; each dependency hands out a part of it.
All are `async def`, also where nothing is awaited: FastAPI calls a plain function in another thread, which costs
more than all that it does.

What belongs here: FastAPI dependencies. No logic beyond picking and checking.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Path, Request
from starlette.exceptions import HTTPException

from app.api.idempotency import IdempotencyKeyDep, begin_fingerprint, take_fingerprint
from app.api.preferences import Preference, parse_prefer
from app.api.replies import ASYNC_SUFFIX, Patience, Reply
from app.api.uploads import Uploads
from app.celery.idempotency import IdempotencyKeys
from app.celery.journal import Journal
from app.celery.producer import Producer
from app.celery.submission import Submission
from app.core.config import Settings
from app.database.session import Session
from async_celery import AsyncCelery
from async_celery.dead_letters import DeadLetters
from project_database.sessions import Database


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What lives as long as the process: made in the lifespan, closed by it."""

    settings: Settings
    client: AsyncCelery
    journal: Journal
    producer: Producer
    idempotency_keys: IdempotencyKeys
    dead_letters: DeadLetters
    database: Database
    uploads: Uploads
    shutdown: asyncio.Event


async def get_resources(request: Request) -> Resources:
    """Return the process's resources."""
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(get_resources)]


async def get_producer(resources: ResourcesDep) -> Producer:
    """Return the process's producer."""
    return resources.producer


async def get_client(resources: ResourcesDep) -> AsyncCelery:
    """Return the process's client, for what is no single task's."""
    return resources.client


async def get_dead_letters(resources: ResourcesDep) -> DeadLetters:
    """Return what reads the dead letters."""
    return resources.dead_letters


async def get_journal(resources: ResourcesDep) -> Journal:
    """Return the process's journal."""
    return resources.journal


async def get_database(request: Request) -> Database:
    """Return PostgreSQL, for an endpoint that only reads."""
    return (await get_resources(request)).database


async def get_session(request: Request) -> Session:
    """Return the session of this request's transaction (`app.api.transactions`)."""
    session: Session = request.state.session
    return session


async def get_patience(request: Request, resources: ResourcesDep) -> Patience:
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
        patience=await get_patience(request, resources),
        journal=resources.journal,
        preference=Preference(respond_async=True) if twin else parse_prefer(prefer or []),
        default_wait=resources.settings.result_wait_seconds,
        max_wait=resources.settings.result_wait_max_seconds,
    )
    if reply.wait > 0:
        await resources.client.ping_backend()
    return reply


async def get_submission(
    request: Request,
    key: IdempotencyKeyDep,
    resources: ResourcesDep,
    reply: Annotated[Reply, Depends(get_reply)],
) -> Submission:
    """Return what sends this request's task or workflow."""
    return Submission(
        producer=resources.producer,
        keys=resources.idempotency_keys,
        key=key,
        fingerprint=begin_fingerprint(request) if key is None else await take_fingerprint(request),
        expires=reply.expires,
    )


async def get_upload(request: Request, key: IdempotencyKeyDep, resources: ResourcesDep) -> Submission:
    """Return what sends the workflow of a request whose body the endpoint reads: it feeds the fingerprint."""
    return Submission(
        producer=resources.producer,
        keys=resources.idempotency_keys,
        key=key,
        fingerprint=begin_fingerprint(request),
        expires=None,
    )


async def get_task_id(
    request: Request, task_id: Annotated[UUID, Path(description="a task's or a workflow's id")]
) -> str:
    """Return the path's task id in its canonical form."""
    request.state.task_id = str(task_id)
    return str(task_id)


async def require_json(request: Request) -> None:
    """Refuse a body that is not declared as JSON (415)."""
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if has_body and media_type != "application/json":
        raise HTTPException(415, "send the body as JSON, with Content-Type: application/json")


ClientDep = Annotated[AsyncCelery, Depends(get_client)]
DatabaseDep = Annotated[Database, Depends(get_database)]
DeadLettersDep = Annotated[DeadLetters, Depends(get_dead_letters)]
JournalDep = Annotated[Journal, Depends(get_journal)]
ProducerDep = Annotated[Producer, Depends(get_producer)]
PatienceDep = Annotated[Patience, Depends(get_patience)]
SessionDep = Annotated[Session, Depends(get_session)]
ReplyDep = Annotated[Reply, Depends(get_reply)]
SubmissionDep = Annotated[Submission, Depends(get_submission)]
TaskIdDep = Annotated[str, Depends(get_task_id)]
UploadDep = Annotated[Submission, Depends(get_upload)]
