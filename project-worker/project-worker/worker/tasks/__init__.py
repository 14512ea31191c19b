"""The tasks: thin Celery adapters over the pure functions of `worker/domain`.

How it works: each module has a `register(task)` that puts its functions under their contracts (`binding.py`);
`register` here calls them all.

What belongs here: one module per domain, listed below. No computation.
"""

from celery import Celery

from worker.config import Settings
from worker.tasks import information, integers, statistics
from worker.tasks.binding import TaskBinder


def register(app: Celery, settings: Settings) -> None:
    """Register every task of the project on `app`."""
    task = TaskBinder(app=app, settings=settings)
    integers.register(task)
    information.register(task)
    statistics.register(task)
