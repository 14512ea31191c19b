"""The tests' app with metrics, and with tasks that end as no other does.

What belongs here: what the tests of metrics need of a worker. Where its metrics are comes from the environment:
METRICS_PORT and METRICS_DIRECTORY.
"""

import os

from celery.exceptions import Ignore, Reject

from async_celery.worker.metrics import install_metrics

from .tasks_app import app


@app.task(name="ignore", shared=False)
def ignore() -> None:
    raise Ignore


@app.task(name="reject", shared=False)
def reject() -> None:
    raise Reject("for good", requeue=False)


@app.task(name="make_up", shared=False)
def make_up(number: int) -> None:
    """Raise an exception of a class that nobody else has."""
    raise type(f"MadeUp{number}Error", (Exception,), {})


install_metrics(app, port=int(os.environ["METRICS_PORT"]), directory=os.environ["METRICS_DIRECTORY"])
