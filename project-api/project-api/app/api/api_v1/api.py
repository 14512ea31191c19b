"""The routers of version 1, put together.

What belongs here: one `include_router` per module of `endpoints/`.
"""

from fastapi import APIRouter

from app.api.api_v1.endpoints import dead_letters, project_worker, tasks, workflows

router = APIRouter(prefix="/v1")
router.include_router(project_worker.router)
router.include_router(workflows.router)
router.include_router(tasks.router)
router.include_router(dead_letters.router)
