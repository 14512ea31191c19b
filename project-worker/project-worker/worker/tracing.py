"""Traces of the worker: each of its processes sends its spans, if the environment asks for them.

How it works: `OTEL_EXPORTER_OTLP_ENDPOINT` switches them on (`project_contracts.traces`); otherwise nothing here
imports OpenTelemetry. A process of the pool begins after its fork, and sends its last spans when it ends
(`async_celery.worker.tracing`); one that is killed loses those of the last seconds. Who makes which span:
`async_celery` those of tasks, and of messages that tasks send, `project_database` those of statements.

What belongs here: when sending begins and ends, and as which service.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from celery import Celery

from async_celery.spans import Tracer
from async_celery.worker.tracing import install_tracing as install
from project_contracts import traces
from worker.config import Settings


def install_tracing(app: Celery, settings: Settings) -> None:
    """Have the app's tasks traced, if that is wanted."""
    if traces.are_wanted():
        install(app, partial(_open_tracer, settings))


@contextmanager
def _open_tracer(settings: Settings) -> Iterator[Tracer]:
    # OpenTelemetry, in the process that was forked.
    from async_celery.tracing import OpenTelemetryTracer
    from project_contracts import otlp

    sender = otlp.start(
        {
            "service.name": settings.worker_name,
            "service.version": settings.worker_version,
            "deployment.environment.name": settings.environment,
        }
    )
    try:
        yield OpenTelemetryTracer()
    finally:
        sender.stop()
