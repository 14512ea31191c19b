"""`/health/live` and `/health/ready`: is the process alive, and can it do its work?

How it works: live touches nothing. Ready asks broker, result backend and database at the same time, each
within its own time-out, and reports how long each took; one that fails makes it 503, and so does a database that
is not migrated. Why exactly it failed stands in the log: a readiness answer holds no address.

What belongs here: health endpoints. How a dependency is asked belongs to the room that owns it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.deps import ResourcesDep
from app.api.problems import NotReadyError, documented
from app.database.schema import check_schema
from async_celery import PublishTimeout, TransportError
from project_database.errors import DatabaseUnavailable, NotMigrated, PoolExhausted

logger = logging.getLogger("app.health")

router = APIRouter(prefix="/health", tags=["health"])


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Check(BaseModel):
    """One dependency."""

    status: Literal["up", "down"]
    latency_seconds: float = Field(description="until it answered or was given up")
    error: str | None = None


class Readiness(BaseModel):
    """Every dependency answers."""

    status: Literal["ready"] = "ready"
    checks: dict[str, Check]


@router.get("/live", responses=documented())
async def live() -> Liveness:
    """Say that the process answers."""
    return Liveness()


@router.get("/ready", responses=documented(503))
async def ready(resources: ResourcesDep) -> Readiness:
    """Ask broker, result backend and database."""
    names = ("broker", "result_backend", "database")
    asked: tuple[Callable[[], Awaitable[object]], ...] = (
        resources.client.ping_broker,
        resources.client.ping_backend,
        partial(check_schema, resources.database),
    )
    checks = dict(zip(names, await asyncio.gather(*map(_check, asked)), strict=True))
    if any(check.status == "down" for check in checks.values()):
        raise NotReadyError({name: check.model_dump() for name, check in checks.items()})
    return Readiness(checks=checks)


def _say(failure: Exception) -> str:
    if isinstance(failure, NotMigrated):
        return str(failure)
    if isinstance(failure, PublishTimeout | PoolExhausted) or isinstance(failure.__cause__, TimeoutError):
        return "did not answer in time"
    return "refused or dropped the connection"


async def _check(ping: Callable[[], Awaitable[object]]) -> Check:
    started = time.perf_counter()
    error = None
    try:
        await ping()
    except (TransportError, DatabaseUnavailable) as failure:
        logger.warning("readiness: %s", failure)
        error = _say(failure)
    latency = round(time.perf_counter() - started, 6)
    return Check(status="down" if error else "up", latency_seconds=latency, error=error)
