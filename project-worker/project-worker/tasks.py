"""Entry point: `celery -A tasks:app worker`. Wiring lives in `worker/main.py`; nothing else belongs here."""

from worker.main import create_app

app = create_app()
