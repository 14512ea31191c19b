"""Errors become HTTP here, and only here: RFC 9457 problem documents, one table.

How it works: rooms below raise their own exceptions and know no status code. `TABLE` maps each to a status and
a title; `install` registers it on the app. A problem names the request (`requestId`, also in the logs), and
the task where one is known (`taskId`). What a client sees never holds a traceback, an address or a secret.

What belongs here: the table and the shape of a problem. A new exception gets its row in `TABLE`.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.core import context
from app.core.idempotency import BadIdempotencyKeyError, KeyInProgressError, KeyReusedError
from app.core.records import BadHeader, TooManyRows
from app.database.errors import RowNotFound, StaleVersion, advise
from app.database.keyset import CursorError
from async_celery import (
    BackendError,
    BadCursor,
    DeadLetterNotFound,
    PayloadError,
    PublishError,
    PublishTimeout,
    ResultTimeout,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TaskRevoked,
    TransportError,
    Unsupported,
)
from project_database.errors import (
    AlreadyExists,
    ConstraintViolated,
    DatabaseUnavailable,
    LockTimeout,
    NotMigrated,
    ParentMissing,
    PoolExhausted,
    StillReferenced,
    TransactionConflict,
)

logger = logging.getLogger("app.problems")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"Retry-After": "2"}  # s; dependencies are back within 10 s, most restarts take less

MAX_ERRORS = 20
"""How many wrong fields a problem shows; a client may send thousands of them."""

MAX_FIELD_LENGTH = 200
"""How much of a wrong field's name a problem shows, in characters: the client may have made it up."""


class ShuttingDownError(Exception):
    """The API stops while a client waits for a task that is revoked then."""

    def __init__(self, task_id: str) -> None:
        super().__init__("the API is shutting down; the task was revoked, send it again")
        self.task_id = task_id


class ClientGoneError(Exception):
    """The client has closed its connection while it waited; nobody reads the answer, it is for the log."""

    def __init__(self, task_id: str) -> None:
        super().__init__("the client left before its answer")
        self.task_id = task_id


class TaskFinishedError(Exception):
    """A task that is to be cancelled has already ended."""

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(f"the task has ended as {state}, there is nothing left to cancel")
        self.task_id = task_id


class NotReadyError(Exception):
    """A dependency is down; `checks` tells which."""

    def __init__(self, checks: Mapping[str, object]) -> None:
        super().__init__("not every dependency answers; see checks")
        self.checks = checks


class FieldError(BaseModel):
    """One field that is wrong."""

    field: str = Field(examples=["body.multiplier"])
    message: str
    type: str = Field(examples=["int_type"])


class Problem(BaseModel):
    """What every error looks like (RFC 9457 §3.1; the members from `requestId` on are our extensions)."""

    type: str = Field(default="about:blank", description="about:blank: the status says it all")
    title: str
    status: int
    detail: str
    instance: str = Field(description="the path that was asked for")
    requestId: str | None = Field(description="find it in the logs")  # noqa: N815  # wire name
    taskId: str | None = Field(default=None, description="the task that this is about")  # noqa: N815  # wire name
    code: str | None = Field(default=None, description="a failed task's own name for what is wrong")
    errors: list[FieldError] | None = Field(default=None, description=f"the first {MAX_ERRORS} wrong fields")


@dataclass(frozen=True, kw_only=True)
class Row:
    """How one family of exceptions is answered.

    `detail` replaces the exception's own text, which then goes to the log only: it may hold an address.
    """

    status: int
    title: str
    detail: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


TABLE: dict[type[Exception], Row] = {
    BadCursor: Row(status=400, title="Bad cursor"),
    Unsupported: Row(status=501, title="Not available with this result backend"),
    BadIdempotencyKeyError: Row(status=400, title="Bad Idempotency-Key"),
    KeyReusedError: Row(status=422, title="Idempotency-Key is already used"),
    KeyInProgressError: Row(status=409, title="Request in progress", headers=RETRY_AFTER),
    PayloadError: Row(status=422, title="Payload cannot be sent"),
    TaskNotFound: Row(status=404, title="Unknown task"),
    DeadLetterNotFound: Row(status=404, title="Unknown dead letter"),
    TaskExpired: Row(status=410, title="Task expired"),
    TaskRevoked: Row(status=409, title="Task revoked"),
    TaskFailed: Row(status=502, title="Task failed"),
    ResultTimeout: Row(status=504, title="Task took too long and was revoked"),
    TransportError: Row(
        status=503,
        title="Broker or result backend unavailable",
        detail="a server did not answer in time, or the API is closing its connections; ask again",
        headers=RETRY_AFTER,
    ),
    PublishError: Row(
        status=503,
        title="Broker unavailable",
        detail="the broker did not accept the task; send it again",
        headers=RETRY_AFTER,
    ),
    PublishTimeout: Row(
        status=503,
        title="Broker unavailable",
        detail="the broker did not confirm the task in time: it may or may not run; "
        "a request with an Idempotency-Key can be sent again safely",
        headers=RETRY_AFTER,
    ),
    BackendError: Row(
        status=503,
        title="Result backend unavailable",
        detail="the result backend did not answer; what was accepted before goes on, ask again",
        headers=RETRY_AFTER,
    ),
    DatabaseUnavailable: Row(
        status=503,
        title="Database unavailable",
        detail="the database did not answer, or closed the connection: a change may or may not have been made; "
        "a request with an Idempotency-Key can be sent again safely",
        headers=RETRY_AFTER,
    ),
    PoolExhausted: Row(status=503, title="Database busy", headers=RETRY_AFTER),
    LockTimeout: Row(status=503, title="Database busy", headers=RETRY_AFTER),
    NotMigrated: Row(status=503, title="Database not migrated", headers=RETRY_AFTER),
    TransactionConflict: Row(status=409, title="Conflict with another change"),
    ConstraintViolated: Row(status=422, title="Invalid row"),
    AlreadyExists: Row(status=409, title="Row exists"),
    ParentMissing: Row(status=409, title="Row refers to none"),
    StillReferenced: Row(status=409, title="Row is referred to"),
    BadHeader: Row(status=422, title="Bad header"),
    TooManyRows: Row(status=413, title="Too many rows"),
    CursorError: Row(status=400, title="Bad cursor"),
    RowNotFound: Row(status=404, title="No such row"),
    StaleVersion: Row(status=412, title="Row has changed"),
    TaskFinishedError: Row(status=409, title="Task has ended"),
    ClientGoneError: Row(status=499, title="Client closed request"),  # nginx's number; there is no standard one
    ShuttingDownError: Row(status=503, title="Shutting down", headers=RETRY_AFTER),
    NotReadyError: Row(status=503, title="Not ready", headers=RETRY_AFTER),
}


def problem_response(
    path: str,
    status: int,
    title: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **members: Any,  # RFC 9457 §3.2: extension members are free
) -> Response:
    """Build the response of one problem; `members` are added to the document when they are not None."""
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": path,
        "requestId": context.request_id.get(),
    } | {name: value for name, value in members.items() if value is not None}
    # ASCII escapes: a lone surrogate in a client's field name could not be encoded as UTF-8.
    content = json.dumps(document, ensure_ascii=True, allow_nan=False)
    return Response(content, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


async def _from_table(request: Request, error: Exception) -> Response:
    row = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    if row.detail is not None:
        logger.warning("%s: %s", row.title, error)
    if row.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        request.state.failure = type(error).__name__  # for `app.api.metrics`
    return problem_response(
        request.url.path,
        row.status,
        row.title,
        row.detail or (advise(error) if isinstance(error, ConstraintViolated) else str(error)),
        headers=row.headers,
        # The task that the client knows: a workflow's error names the child at fault, its id is in the detail.
        taskId=getattr(request.state, "task_id", None) or getattr(error, "task_id", None),
        code=getattr(error, "code", None),
        checks=getattr(error, "checks", None),
    )


async def _from_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # registered for this type only
    every = error.errors()
    errors = [
        FieldError(field=_field(item["loc"]), message=item["msg"], type=item["type"]).model_dump()
        for item in every[:MAX_ERRORS]
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
    if len(every) > MAX_ERRORS:
        detail += f"; and {len(every) - MAX_ERRORS} more"
    if any(item["type"] == "json_invalid" for item in errors):
        return problem_response(request.url.path, 400, "Malformed JSON", detail, errors=errors)
    return problem_response(request.url.path, 422, "Invalid input", detail, errors=errors)


def _field(location: Sequence[object]) -> str:
    name = ".".join(map(str, location))
    return name if len(name) <= MAX_FIELD_LENGTH else name[:MAX_FIELD_LENGTH] + "…"


async def _from_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this type only
    title = HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return problem_response(request.url.path, error.status_code, title, error.detail, headers=headers)


def _methods(request: Request) -> set[str]:
    """Every method of the request's path (Starlette knows those of the first matching route only)."""
    routes = iter_route_contexts(request.app.routes)
    return {
        method for route in routes if route.path_regex.match(request.url.path) for method in route.methods or ()
    }


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem document."""
    for kind in TABLE:
        app.add_exception_handler(kind, _from_table)
    app.add_exception_handler(RequestValidationError, _from_validation)
    app.add_exception_handler(HTTPException, _from_http)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _, schemas = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        return document

    # FastAPI's own way to change the document (its docs: "Extending OpenAPI").
    app.openapi = openapi  # type: ignore[method-assign]


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI text for the problems an endpoint can answer with, and for those that any endpoint can."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*statuses, 500})
    }
