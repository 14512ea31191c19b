"""Entry point: `uvicorn api:app`. Wiring lives in `app/main.py`; nothing else belongs here."""

from app.main import create_app

app = create_app()
