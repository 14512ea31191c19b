"""The worker's side: tasks that are neither lost nor run without a bound, whatever dies.

How it works: `install` puts classes of this package where Celery has its extension points. Each module's own
docstring says what it adds.

What belongs here: the names for users.
"""

from async_celery.worker.clock import TaskCancelled, raise_if_cancelled
from async_celery.worker.loops import shared
from async_celery.worker.policy import Policy, install
from async_celery.worker.subject import Subject, current_subject
from async_celery.worker.task import WorkerLost

__all__ = [
    "Policy",
    "Subject",
    "TaskCancelled",
    "WorkerLost",
    "current_subject",
    "install",
    "raise_if_cancelled",
    "shared",
]
