"""Contract of the task without arguments: what the worker that answers is made of.

What belongs here: that task's name and result model.
"""

from project_contracts.contract import NoPayload, Result, TaskContract
from project_contracts.queues import PROJECT_WORKER


class WorkerInformationResult(Result):
    """The worker process that ran the task."""

    hostname: str
    pid: int
    python: str
    celery: str
    uptime_seconds: float


WORKER_INFORMATION = TaskContract(
    name="project-worker.worker_information",
    queue=PROJECT_WORKER,
    payload=NoPayload,
    result=WorkerInformationResult,
)
