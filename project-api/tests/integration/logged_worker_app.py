"""The worker of `country_worker_app`, with the real one's log lines.

Loaded by `celery -A logged_worker_app:app worker`. What is sent to SUMS fails once in a way that is retried.
"""

from typing import Any

import country_worker_app  # noqa: F401 (its task)
from worker_app import app

from project_contracts.integers import INTEGERS_SUM
from worker.config import load_settings
from worker.logging import install_logging

install_logging(app, load_settings())
del app.tasks[INTEGERS_SUM.name]


@app.task(
    name=INTEGERS_SUM.name, bind=True, autoretry_for=(ConnectionError,), retry_backoff=1, retry_jitter=False
)
def integers_sum(self: Any, integers: list[int]) -> int:
    """Add up, in the second run."""
    if not self.request.retries:
        raise ConnectionError("not yet")
    return sum(integers)
