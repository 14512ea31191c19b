"""project-api that nobody observes, for the row `observability`: no figures, no log lines, no ids of requests.

How it works: `uvicorn unobserved:app` in the project's folder and environment, with this one on the path. It is
the same application without the middleware that observes requests, without its client's observer, and with a log
of warnings only. Without ids, messages carry no header about their request.

What belongs here: that application.
"""

import contextlib
from collections.abc import AsyncIterator

from celery import Celery

from app import main
from app.api.middleware import RequestContextMiddleware
from app.celery.async_celery import create_async_celery
from app.core.config import Settings, get_settings
from app.core.metrics import LoopLag
from async_celery import AsyncCelery
from async_celery.observation import NOBODY, Observer


def _unobserved(app: Celery, settings: Settings, _: Observer, **options: object) -> AsyncCelery:
    return create_async_celery(app, settings, NOBODY, **options)


@contextlib.asynccontextmanager
async def _not_watching(_: LoopLag) -> AsyncIterator[None]:
    """Look at nothing."""
    yield


main.create_async_celery = _unobserved
LoopLag.watching = _not_watching  # type: ignore[method-assign]  # that it is another one is the point

app = main.create_app(get_settings().model_copy(update={"log_level": "WARNING"}))
app.user_middleware = [each for each in app.user_middleware if each.cls is not RequestContextMiddleware]
