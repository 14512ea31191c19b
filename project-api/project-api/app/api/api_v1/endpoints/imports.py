"""The import of cities: a file, or the GeoNames set, loaded by a workflow.

How it works: what is sent is staged in PostgreSQL in one transaction, then the workflow that loads it is sent
under the import's id, and the answer is 202 once RabbitMQ has confirmed it. What was staged for a workflow that
could not be sent is deleted again.

What belongs here: endpoints under `/v1/imports`.
"""

import contextlib
import logging
from collections.abc import AsyncIterator
from math import ceil
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException

from app.api.deps import ProducerDep, ResourcesDep, UploadDep
from app.api.problems import documented
from app.api.schemas.imports import ImportDocument, ImportSource, RejectedRow
from app.api.schemas.pages import Cursor, Digits, Page
from app.api.uploads import media_type
from app.celery import workflows
from app.celery.producer import Producer
from app.celery.schemas import AsyncTask
from app.core.records import CSV, TSV, read_table
from app.database import keyset
from app.database.errors import RowNotFound
from app.database.imports import Imports, ImportState
from async_celery import AsyncCeleryError, TaskExpired, TaskNotFound, TaskState
from project_contracts.imports import (
    GEONAMES_PARTS,
    MAX_PARTS,
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    ROWS_PER_PART,
    ImportReport,
)
from project_database.errors import DatabaseError
from project_database.sessions import Database

logger = logging.getLogger("app.imports")

router = APIRouter(prefix="/imports", tags=["imports"])

JSON = "application/json"
DIALECTS = {"text/csv": CSV, "text/tab-separated-values": TSV}

SHOWN = 100
"""Rejected rows in an import's document."""

ImportId = Annotated[UUID, Path(description="an import's id, which is its workflow's")]

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": ImportSource.model_json_schema()},
            # A string with a media type is a file (OpenAPI 3.1, "Considerations for File Uploads").
            **{kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in DIALECTS},
        },
    }
}

_LOCATION: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "accepted; read it at Location",
        "headers": {
            "Location": {"schema": {"type": "string"}, "description": "/v1/imports/{id}"},
            "Idempotency-Replayed": {
                "schema": {"type": "string", "const": "true"},
                "description": "the import is that of the first request with this Idempotency-Key",
            },
        },
    }
}


@router.post(
    "",
    status_code=202,
    responses=documented(400, 408, 409, 413, 415, 422, 503) | _LOCATION,
    openapi_extra=_BODY,
)
async def create_import(
    request: Request, response: Response, resources: ResourcesDep, upload: UploadDep
) -> AsyncTask:
    """Import cities: the GeoNames set (`{"source": "geonames"}`), or a file in the body.

    An import takes a while, so the answer is always 202, as with `Prefer: respond-async`: read it at `Location`.

    A file is CSV (RFC 4180) or, as `text/tab-separated-values`, without any quoting; up to 200 MiB of UTF-8. Its
    first line names the columns: geonameid, name, country_code, latitude, longitude, timezone, and, where there
    are, alternate_names (separated by `|`), admin1_code, population. A row that cannot be imported is reported
    with its line and the reason, and does not keep the others out. An import without rows succeeds.

        curl --data-binary @cities.csv -H 'Content-Type: text/csv' http://127.0.0.1:5000/v1/imports
    """
    import_id = UUID(upload.producer.new_task_id())
    kind = media_type(request)
    # The same bytes are other rows as another kind of file.
    upload.fingerprint.update(f"{kind}\n".encode())
    slices = resources.uploads.slices(request, upload.fingerprint, task_id=str(import_id))
    if kind == JSON:
        await _read_source(slices)
        async with resources.database.transaction() as session:
            await Imports(session).add(import_id, "geonames")
        parts = GEONAMES_PARTS
    elif kind in DIALECTS:
        with resources.uploads.one_more():
            table = await read_table(
                slices,
                DIALECTS[kind],
                required=REQUIRED_COLUMNS,
                optional=OPTIONAL_COLUMNS,
                max_rows=MAX_PARTS * ROWS_PER_PART,
            )
            async with resources.database.transaction() as session:
                staged = await Imports(session).stage(import_id, table)
        parts = max(1, ceil(staged / ROWS_PER_PART))
    else:
        raise HTTPException(415, f'send {{"source": "geonames"}} as {JSON}, or a file as {" or ".join(DIALECTS)}')
    try:
        workflow = workflows.import_cities(upload.celery, import_id, parts=parts, geonames=kind == JSON)
        handle = await upload.send_workflow(workflow, ImportReport, task_id=str(import_id))
    except BaseException:
        await _forget(resources.database, import_id)
        raise
    if handle.id != str(import_id):
        # The request was repeated under its Idempotency-Key: the first one's import is the answer.
        await _forget(resources.database, import_id)
        response.headers["Idempotency-Replayed"] = "true"
    response.headers["Location"] = f"/v1/imports/{handle.id}"
    return AsyncTask(id=UUID(handle.id), status=TaskState.QUEUED)


@router.get("/{import_id}", responses=documented(404, 410, 422, 503))
async def get_import(import_id: ImportId, resources: ResourcesDep, producer: ProducerDep) -> ImportDocument:
    """Everything that is known about an import. It is kept for 30 days; one that did not finish, for a day."""
    unknown: AsyncCeleryError | None = None
    # The status first: an import's end is committed before its workflow succeeds, so success shows a result.
    try:
        status = (await producer.handle(str(import_id)).status()).state
    except (TaskExpired, TaskNotFound) as error:
        # The workflow's result is kept for a day, the import's for longer.
        status, unknown = TaskState.SUCCESS, error
    async with resources.database.reading() as session:
        state = await _read(Imports(session), import_id, producer)
        rejected = await Imports(session).get_rejected(import_id, limit=SHOWN, cursor=None)
    if unknown is not None and state.row.finished_at is None:
        raise unknown
    return ImportDocument.from_state(state, status, _as_page(rejected, total=state.row.rejected))


@router.get("/{import_id}/rejected", responses=documented(400, 404, 410, 422, 503))
async def list_rejected_rows(
    import_id: ImportId,
    resources: ResourcesDep,
    producer: ProducerDep,
    cursor: Annotated[Cursor | None, Query(description="the `cursor` of the page before")] = None,
    limit: Annotated[int, Field(ge=1, le=1000), Digits, Query()] = 100,
) -> Page[RejectedRow]:
    """The rows that are rejected so far, in the file's order, and how many there are."""
    async with resources.database.reading() as session:
        state = await _read(Imports(session), import_id, producer)
        rejected = await Imports(session).get_rejected(import_id, limit=limit, cursor=cursor)
    return _as_page(rejected, total=state.row.rejected)


async def _read(imports: Imports, import_id: UUID, producer: Producer) -> ImportState:
    """Return an import's state.

    Raises:
        RowNotFound: there is no such import.
        TaskExpired: there is none any more.
    """
    try:
        return await imports.get_one(import_id)
    except RowNotFound:
        with contextlib.suppress(TaskNotFound):
            await producer.handle(str(import_id)).status()
        raise


async def _read_source(slices: AsyncIterator[bytes]) -> None:
    body = b"".join([piece async for piece in slices])
    try:
        ImportSource.model_validate_json(body)
    except ValidationError as error:
        errors = [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_url=False)]
        raise RequestValidationError(errors) from error


def _as_page(rejected: keyset.Page[Any], *, total: int) -> Page[RejectedRow]:
    items = [RejectedRow.model_validate(row) for row in rejected.rows]
    return Page[RejectedRow](items=items, cursor=rejected.cursor, total=total)


async def _forget(database: Database, import_id: UUID) -> None:
    """Delete what was staged for a workflow that was not sent; housekeeping gets what is left."""
    try:
        async with database.transaction() as session:
            await Imports(session).delete(import_id)
    except DatabaseError as error:
        logger.warning("import %s is left to housekeeping: %s", import_id, error)
