"""Traces of the API: its spans are sent while it runs, if the environment asks for them.

How it works: `OTEL_EXPORTER_OTLP_ENDPOINT` switches them on (`project_contracts.traces`); otherwise nothing here
imports OpenTelemetry's SDK. Who makes which span: FastAPI that of the request, `async_celery` those of messages
and waits, `project_database` those of statements.

What belongs here: when sending begins and ends, and as which service.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from app.core.config import Settings
from project_contracts import traces


@contextlib.asynccontextmanager
async def open_tracing(settings: Settings) -> AsyncIterator[None]:
    """Send this process's spans meanwhile, the last ones at the end; no later than some seconds after it."""
    if not traces.are_wanted():
        yield
        return
    from project_contracts import otlp  # the SDK, which nobody else needs

    sender = otlp.start(
        {
            "service.name": settings.api_name,
            "service.version": settings.api_version,
            "deployment.environment.name": settings.environment,
        }
    )
    try:
        yield
    finally:
        await asyncio.to_thread(sender.stop)
