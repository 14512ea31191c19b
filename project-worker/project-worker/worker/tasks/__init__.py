"""The tasks: thin Celery adapters over the functions of `worker/domain` and the queries of `worker/database`.

How it works: each module has a `register(task)` that puts its functions under their contracts (`binding.py`);
`register` and `register_pickled` here call them, each for the worker of one queue.

What belongs here: one module per domain, listed below. No computation.
"""

from celery import Celery

from worker.config import Settings
from worker.tasks import countries, imports, information, integers, invoices, statistics
from worker.tasks.binding import TaskBinder


def register(app: Celery, settings: Settings) -> None:
    """Register every task of the queue `project-worker` on `app`."""
    task = TaskBinder(app=app, settings=settings)
    integers.register(task)
    information.register(task)
    statistics.register(task)
    imports.register(task)
    countries.register(task)


def register_pickled(app: Celery, settings: Settings) -> None:
    """Register every task of the queue `project-worker-pickle` on `app`."""
    invoices.register(TaskBinder(app=app, settings=settings))
