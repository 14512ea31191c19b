"""The table: every error of the library and of the rooms below has its row, and a safe body."""

import json

import pytest
from fastapi import FastAPI, Request

import async_celery
from app.api import problems
from app.api.problems import TABLE, ShuttingDownError, install
from app.database.errors import DatabaseError
from async_celery import AsyncCeleryError


def leaves(kind: type[Exception]) -> list[type[Exception]]:
    return [leaf for child in kind.__subclasses__() for leaf in leaves(child)] or [kind]


@pytest.mark.parametrize("kind", leaves(AsyncCeleryError))
def test_every_library_error_has_a_row(kind: type[Exception]) -> None:
    assert [parent for parent in kind.__mro__ if parent in TABLE]


def test_every_row_is_an_error_status() -> None:
    assert all(row.status >= 400 for row in TABLE.values())
    assert all("Retry-After" in row.headers for row in TABLE.values() if row.status == 503)


def request(path: str) -> Request:
    return Request({"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""})


@pytest.mark.parametrize(
    ("error", "status", "task_id"),
    [
        (async_celery.TaskNotFound("an-id"), 404, "an-id"),
        (async_celery.TaskExpired("an-id"), 410, "an-id"),
        (async_celery.TaskRevoked(task_id="an-id", name=None, reason="revoked"), 409, "an-id"),
        (async_celery.BadCursor("x"), 400, None),
        (async_celery.DeadLetterNotFound("a-letter"), 404, None),
        (async_celery.Unsupported("no history here"), 501, None),
        (async_celery.BackendError("Redis did not answer"), 503, None),
        (DatabaseError("PostgreSQL did not answer"), 503, None),
        (ShuttingDownError("an-id"), 503, "an-id"),
    ],
)
async def test_an_error_becomes_its_problem(error: Exception, status: int, task_id: str | None) -> None:
    app = FastAPI()
    install(app)
    response = await problems._from_table(request("/v1/x"), error)
    body = json.loads(bytes(response.body))
    assert response.status_code == body["status"] == status
    assert response.media_type == "application/problem+json"
    assert body["instance"] == "/v1/x"
    assert body.get("taskId") == task_id
    assert app.exception_handlers[type(error)] is problems._from_table


async def test_a_failed_tasks_code_is_a_member() -> None:
    for code in ("too-small", None):
        error = async_celery.TaskFailed(task_id="id", name=None, type="TooSmall", message="3", code=code)
        response = await problems._from_table(request("/v1/x"), error)
        assert json.loads(bytes(response.body)).get("code", "absent") == (code or "absent")


def test_the_openapi_text_describes_problems() -> None:
    app = FastAPI()
    install(app)
    assert {"Problem", "FieldError"} <= set(app.openapi()["components"]["schemas"])
