"""Imports, as clients ask for them and see them.

What belongs here: those models. What a file holds stands in `project_contracts.imports`.
"""

from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.pages import Page
from app.database.imports import ImportState
from async_celery import TaskState
from project_contracts.imports import ImportCounts, ImportReport


class ImportSource(BaseModel):
    """What to import without sending it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    source: Literal["geonames"] = Field(description="252 countries and 234,908 cities of GeoNames")


class ImportRows(BaseModel):
    """How far an import has come."""

    staged: int | None = Field(
        description="rows that wait, or waited, for their part; null while they are fetched"
    )
    processed: int = Field(description="rows of the parts that are done")


class RejectedRow(BaseModel):
    """A row that was not imported."""

    model_config = ConfigDict(from_attributes=True)

    line: int = Field(description="where it begins in the file, from 1")
    reason: str = Field(validation_alias="error", examples=["has 5 fields, the header has 7"])


class ImportDocument(BaseModel):
    """All that is known about an import."""

    id: UUID
    source: Literal["geonames", "upload"]
    status: TaskState = Field(description="of its workflow", examples=[TaskState.STARTED])
    created_at: datetime
    finished_at: datetime | None = Field(
        description="when its last row was done; null if it has not come to that"
    )
    rows: ImportRows
    counts: ImportCounts = Field(description="cities, of the parts that are done")
    countries: ImportCounts | None = Field(description="countries, where the source brings them")
    result: ImportReport | None = Field(description="what it came to, once it is finished")
    rejected: Page[RejectedRow] = Field(
        description="the first rows that are rejected so far, and how many there are; the others are at "
        "`/v1/imports/{id}/rejected` with this `cursor`"
    )
    task: str = Field(description="its workflow: read it, or DELETE it to cancel", examples=["/v1/tasks/{id}"])

    @classmethod
    def from_state(cls, state: ImportState, status: TaskState, rejected: Page[RejectedRow]) -> Self:
        """Put an import's row and its workflow's status together."""
        row = state.row
        return cls.model_validate(
            {
                "id": row.id,
                "source": row.source,
                "status": status,
                "created_at": row.created_at,
                "finished_at": row.finished_at,
                "rows": ImportRows(staged=row.staged, processed=state.counts.read),
                "counts": state.counts,
                "countries": row.countries,
                "result": row.result,
                "rejected": rejected,
                "task": f"/v1/tasks/{row.id}",
            }
        )
