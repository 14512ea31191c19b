"""The worker of `logged_worker_app`, with the real one's traces.

Loaded by `celery -A traced_worker_app:app worker`.
"""

import logged_worker_app  # noqa: F401 (its tasks)
from worker_app import app

from worker.config import load_settings
from worker.tracing import install_tracing

install_tracing(app, load_settings())
