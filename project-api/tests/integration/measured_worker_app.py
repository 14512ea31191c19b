"""The worker of `logged_worker_app`, whose sums are retried once, with the real one's metrics.

Loaded by `celery -A measured_worker_app:app worker`; its endpoint is at METRICS_PORT.
"""

import os

import logged_worker_app  # noqa: F401 (its tasks)
from worker_app import app

from async_celery.worker.metrics import install_metrics

install_metrics(app, port=int(os.environ["METRICS_PORT"]))
