"""The tasks of the import of cities: stage GeoNames, load the parts side by side, finish.

How it works: each is one transaction, so a task that fails or dies has done nothing, and one that runs again
after it was done returns the same result.

What belongs here: adapters from the contracts of `project_contracts.imports` to `worker.database.importing`.
"""

from uuid import UUID

from project_contracts.imports import (
    FINISH_IMPORT,
    LOAD_PART,
    STAGE_GEONAMES,
    FinishImportPayload,
    ImportCounts,
    ImportReport,
    LoadPartPayload,
    Staged,
    StageGeonamesPayload,
)
from worker.database import importing
from worker.database.session import transaction
from worker.tasks.binding import TaskBinder


def register(task: TaskBinder) -> None:
    """Register the import tasks."""

    @task(STAGE_GEONAMES)
    async def stage_geonames(import_id: UUID) -> Staged:
        """Load the countries of GeoNames, and stage its cities."""
        payload = StageGeonamesPayload(import_id=import_id)
        async with transaction() as session:
            return await importing.stage_geonames(session, payload.import_id)

    @task(LOAD_PART)
    async def load_part(import_id: UUID, part: int, parts: int) -> ImportCounts:
        """Load one part of the staged rows."""
        payload = LoadPartPayload(import_id=import_id, part=part, parts=parts)
        async with transaction() as session:
            return await importing.load_part(session, payload.import_id, payload.part, payload.parts)

    @task(FINISH_IMPORT)
    async def finish_import(import_id: UUID) -> ImportReport:
        """Sum up the parts."""
        payload = FinishImportPayload(import_id=import_id)
        async with transaction() as session:
            return await importing.finish(session, payload.import_id)
