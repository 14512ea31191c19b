"""Settings to client: the Celery app that the API sends with, made awaitable by the library `async_celery`.

Which is which: *Celery* defines the messages and workflows, the library `async_celery` (in `libs/`) carries them
from asyncio without threads and without polling, and this file, `app.celery.async_celery`, only configures both.

Celery separates the *producer*, which sends tasks, from the *worker*, which runs them. The *broker* (RabbitMQ)
holds the tasks, the *result backend* (Redis) holds their results for a while. The API is a producer only: it
names tasks and never imports them, so it needs none of their dependencies.

What belongs here: the producer's settings, each with its reason.
"""

from celery import Celery

from app.core.config import Settings
from async_celery import AsyncCelery
from async_celery.dead_letters import DeadLetters
from async_celery.observation import Observer
from async_celery.queues import work_queue
from async_celery.signed_pickle import KeyRing, SignedPickle, register
from async_celery.spans import Tracer
from project_contracts import traces
from project_contracts.invoices import PICKLED
from project_contracts.queues import QUEUES


def create_celery(settings: Settings) -> Celery:
    """Make the producer's Celery app; it is never "current", every signature is bound to it explicitly."""
    app = Celery("project-api", set_as_current=False)
    app.conf.update(
        broker_url=settings.broker,
        result_backend=settings.backend,
        # Declared as the worker declares them, from the same values.
        task_queues=[
            work_queue(queue.name, max_length=queue.max_length, delivery_limit=queue.delivery_limit)
            for queue in QUEUES
        ],
        # async_celery sends nothing without RabbitMQ's confirm (the seed's advice); this is for whoever uses the
        # Celery app by itself.
        broker_transport_options={"confirm_publish": True},
        # A peer that has died without a word is noticed within 20 s.
        broker_heartbeat=10,
        task_default_delivery_mode="persistent",
        redis_socket_keepalive=True,
        redis_backend_health_check_interval=15,
        # JSON only: the API never unpickles anything.
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        result_expires=settings.result_expires_seconds,
        timezone="UTC",
    )
    # The API signs what it pickles, and has nothing that would unpickle: results are JSON.
    keys = KeyRing(signing=settings.signing_key, accepted=settings.accepted_keys)
    register(SignedPickle(keys, classes=PICKLED), opens=False)
    return app


def create_async_celery(app: Celery, settings: Settings, observer: Observer) -> AsyncCelery:
    """Make the awaitable client around `app`; the caller enters and leaves it (`async with`)."""
    return AsyncCelery(
        app,
        task_id_key=settings.task_id_key.get_secret_value().encode(),
        publish_timeout=settings.publish_timeout_seconds,
        backend_timeout=settings.backend_timeout_seconds,
        task_deadline=settings.task_deadline_seconds,
        observer=observer,
        tracer=_create_tracer(),
    )


def _create_tracer() -> Tracer | None:
    if not traces.are_wanted():
        return None
    from async_celery.tracing import OpenTelemetryTracer  # imported where it is wanted alone

    return OpenTelemetryTracer()


def create_dead_letters(app: Celery, settings: Settings) -> DeadLetters:
    """Make what reads, deletes and replays dead letters; the caller closes it."""
    return DeadLetters(app, task_deadline=settings.task_deadline_seconds)
