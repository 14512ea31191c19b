"""create_app(): the wiring, and nothing but the wiring.

How it works: settings are read once; clients and pools are made in the lifespan and closed by it in reverse
order; middleware, routers and error handlers are put on the app. A dependency that is down at start makes
`/health/ready` say so, not the process exit; queues of another kind do (`app.celery.queues`).

What belongs here: a line for each thing that is plugged in.
"""

import contextlib
import gc
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.api import health, metrics, problems
from app.api.api_v1 import api
from app.api.deps import Resources
from app.api.metrics import HttpMetrics
from app.api.middleware import BodyLimitMiddleware, RequestContextMiddleware
from app.api.tracing import SpanMiddleware, telemetry
from app.api.uploads import Uploads
from app.celery.async_celery import create_async_celery, create_celery, create_dead_letters
from app.celery.idempotency import open_idempotency_keys
from app.celery.journal import open_journal
from app.celery.metrics import ProducerMetrics
from app.celery.producer import Producer
from app.celery.queues import check_queues
from app.core.config import Settings, get_settings
from app.core.logging import configure_logging
from app.core.metrics import LoopLag, create_registry
from app.core.shutdown import shutdown_event
from app.core.tracing import open_tracing
from app.database.housekeeping import open_housekeeping
from app.database.metrics import DatabaseMetrics
from app.database.session import open_database
from app.relay import open_relay
from project_contracts import traces


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the API.

    Args:
        settings: for tests; read from the environment by default.
    """
    settings = settings or get_settings()
    configure_logging(settings)
    registry = create_registry(settings)
    http_metrics = HttpMetrics(registry)
    loop_lag = LoopLag(registry)
    producer_metrics = ProducerMetrics(registry)
    database_metrics = DatabaseMetrics(registry)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        celery = create_celery(settings)
        await check_queues(celery)
        async with (
            open_tracing(settings),
            loop_lag.watching(),
            create_async_celery(celery, settings, producer_metrics) as client,
            open_journal(client) as journal,
            open_idempotency_keys(settings) as idempotency_keys,
            contextlib.aclosing(create_dead_letters(celery, settings)) as dead_letters,
            open_database(settings, database_metrics) as database,
            database_metrics.watching(database, pool_size=settings.database_pool_size),
            open_housekeeping(database, settings),
            # The last one opened is the first one closed: it sends through the client.
            open_relay(
                database, client, journal, url=settings.database, timeout=settings.database_timeout_seconds
            ),
        ):
            with shutdown_event() as shutdown:
                app.state.resources = Resources(
                    settings=settings,
                    client=client,
                    journal=journal,
                    producer=Producer(celery, client, journal),
                    idempotency_keys=idempotency_keys,
                    dead_letters=dead_letters,
                    database=database,
                    uploads=Uploads(settings),
                    shutdown=shutdown,
                )
                # What the process has imported stays: full collections need not look at it. Each would hold the
                # loop up for 70 ms.
                gc.collect()
                gc.freeze()
                yield

    # FastAPI with the assets of /docs inside the package: the page works without internet.
    app = FastAPIOffline(
        title=settings.api_name,
        version=settings.api_version,
        description=settings.api_description,
        lifespan=lifespan,
        telemetry=telemetry(),
    )
    problems.install(app)
    app.include_router(health.router)
    app.include_router(metrics.router)
    for router in api.ROUTERS:
        app.include_router(router, prefix=api.PREFIX)
    # The last one added is the first one passed.
    app.add_middleware(
        BodyLimitMiddleware,
        limit=settings.max_body_bytes,
        streamed={"/v1/imports": settings.max_import_bytes},
    )
    if traces.are_wanted():
        app.add_middleware(SpanMiddleware)
    app.add_middleware(RequestContextMiddleware, metrics=http_metrics)
    app.state.registry = registry
    http_metrics.begin(app)
    return app
