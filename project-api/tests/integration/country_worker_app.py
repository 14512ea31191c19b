"""The worker of `worker_app`, and with it the task that writes into the database.

Loaded by `celery -A country_worker_app:app worker`. The task notes its runs, and does then what the real one
does, with the real worker's repositories. (A module of its own: tests import `worker_app` for its constants.)
"""

import os

from celery import current_task
from oracle import Oracle
from worker_app import app

from project_contracts.countries import COUNTRY_STATISTICS
from worker.config import load_settings
from worker.database.inbox import Inbox
from worker.database.session import configure, transaction
from worker.database.statistics import Statistics

configure(app, load_settings())


@app.task(name=COUNTRY_STATISTICS.name)
async def country_statistics(country_code: str) -> None:
    """Say that it runs, then refresh."""
    task_id = str(current_task.request.id)
    Oracle(f"{os.environ['EXECUTIONS']}-{country_code}").note(task_id)
    async with transaction() as session:
        if await Inbox(session).is_first_run(task_id):
            await Statistics(session).refresh([country_code])
