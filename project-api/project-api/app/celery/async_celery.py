"""Settings to client: the Celery app that the API sends with, made awaitable by the library `async_celery`.

Which is which: *Celery* defines the messages and workflows, `async_celery` (in `libs/`) carries them from
asyncio, this file only configures both.

Celery separates the *producer*, which sends tasks, from the *worker*, which runs them. The *broker* (RabbitMQ)
holds the tasks, the *result backend* (Redis) holds their results for a while. The API is a producer only: it
names tasks and never imports them, so it needs none of their dependencies.

What belongs here: the producer's settings, each with its reason.
"""

from celery import Celery

from app.core.config import Settings
from async_celery import AsyncCelery


def create_celery(settings: Settings) -> Celery:
    """Make the producer's Celery app; it is never "current", every signature is bound to it explicitly."""
    app = Celery("project-api", set_as_current=False)
    app.conf.update(
        broker_url=settings.broker,
        result_backend=settings.backend,
        # A send returns only when RabbitMQ has taken responsibility for the message (the seed's advice).
        broker_transport_options={
            "confirm_publish": True,
            "connect_timeout": settings.publish_timeout_seconds,
            "read_timeout": settings.publish_timeout_seconds,
            "write_timeout": settings.publish_timeout_seconds,
        },
        broker_connection_timeout=settings.publish_timeout_seconds,
        broker_heartbeat=10,
        task_default_delivery_mode="persistent",
        # A dead peer is noticed and replaced, not waited for.
        redis_socket_keepalive=True,
        redis_socket_connect_timeout=settings.backend_timeout_seconds,
        redis_socket_timeout=settings.backend_timeout_seconds,
        redis_backend_health_check_interval=15,
        # JSON only: the API never unpickles anything.
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        result_expires=settings.result_expires_seconds,
        timezone="UTC",
    )
    return app


def create_async_celery(app: Celery, settings: Settings) -> AsyncCelery:
    """Make the awaitable client around `app`; the caller enters and leaves it (`async with`)."""
    return AsyncCelery(
        app,
        task_id_key=settings.task_id_key.get_secret_value().encode(),
        publish_timeout=settings.publish_timeout_seconds,
        backend_timeout=settings.backend_timeout_seconds,
        task_deadline=settings.task_deadline_seconds,
    )
