"""Entry point: `celery -A pickle_tasks:app worker`, for the tasks whose arguments come as signed pickle."""

from worker.main import create_pickle_app

app = create_pickle_app()
