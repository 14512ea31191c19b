"""The table: every error of the library and of the rooms below has its row, and a safe body."""

import json

import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError

import async_celery
from app.api import problems
from app.api.problems import TABLE, ShuttingDownError, install
from app.database.errors import RowNotFound, StaleVersion
from async_celery import AsyncCeleryError
from project_database.errors import (
    AlreadyExists,
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    LockTimeout,
    NotMigrated,
    ParentMissing,
    PoolExhausted,
    StillReferenced,
    TransactionConflict,
)


def leaves(kind: type[Exception]) -> list[type[Exception]]:
    return [leaf for child in kind.__subclasses__() for leaf in leaves(child)] or [kind]


@pytest.mark.parametrize("kind", leaves(AsyncCeleryError) + leaves(DatabaseError))
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
        (DatabaseUnavailable("PostgreSQL did not answer"), 503, None),
        (PoolExhausted("every connection is busy"), 503, None),
        (LockTimeout("a lock is held"), 503, None),
        (NotMigrated(), 503, None),
        (TransactionConflict("met another one"), 409, None),
        (AlreadyExists("taken", constraint="pk_cities"), 409, None),
        (ParentMissing("no such country", constraint=None), 409, None),
        (StillReferenced("cities refer to it", constraint=None), 409, None),
        (ConstraintViolated("a check", constraint="ck_cities_latitude"), 422, None),
        (RowNotFound("city", 7), 404, None),
        (StaleVersion("city", 7, version=3), 412, None),
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


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (StillReferenced("…", constraint="fk_cities_country_code"), "the country has cities: delete"),
        (ParentMissing("…", constraint="fk_cities_country_code"), "there is no country with this country_code"),
        (AlreadyExists("its own words", constraint="pk_landmarks"), "its own words"),
        (AlreadyExists("its own words", constraint=None), "its own words"),
    ],
)
async def test_a_conflict_says_what_to_do(error: Exception, detail: str) -> None:
    response = await problems._from_table(request("/v1/x"), error)
    assert json.loads(bytes(response.body))["detail"].startswith(detail)


async def test_a_document_of_mistakes_stays_small() -> None:
    def mistakes(count: int) -> list[dict[str, object]]:
        return [
            {
                "loc": ("body", f"field{n}", smiles if n < 3 else ""),
                "msg": "Extra inputs",
                "type": "extra_forbidden",
            }
            for n in range(count)
        ]

    smiles = "\U0001f600" * 10_000  # a character of a name becomes twelve

    for count, shown, more in ((20, 20, ""), (22_000, 20, "; and 21980 more")):
        response = await problems._from_validation(request("/v1/x"), RequestValidationError(mistakes(count)))
        body = json.loads(bytes(response.body))
        assert response.status_code == 422
        assert [error["field"][:11] for error in body["errors"][:2]] == ["body.field0", "body.field1"]
        assert len(body["errors"]) == shown
        assert body["detail"].endswith("Extra inputs" + more)
        assert len(bytes(response.body)) < 32 * 1024


def test_the_openapi_text_describes_problems() -> None:
    app = FastAPI()
    install(app)
    assert {"Problem", "FieldError"} <= set(app.openapi()["components"]["schemas"])
