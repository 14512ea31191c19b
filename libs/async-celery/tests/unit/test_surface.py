"""The published names, and what a client refuses to start with."""

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

import async_celery
from async_celery import AsyncCelery

KEY = b"sixteen bytes ok"


def test_exported_names() -> None:
    assert async_celery.__all__ == sorted(async_celery.__all__)
    assert async_celery.__all__ == [
        "AsyncCelery",
        "AsyncCeleryError",
        "BackendError",
        "GroupHandle",
        "Nacked",
        "OnTimeout",
        "PayloadError",
        "PublishError",
        "PublishTimeout",
        "ResultTimeout",
        "TaskError",
        "TaskErrorInfo",
        "TaskExpired",
        "TaskFailed",
        "TaskHandle",
        "TaskNotFound",
        "TaskRevoked",
        "TaskState",
        "TaskStatus",
        "TransportError",
        "Unroutable",
    ]
    assert all(hasattr(async_celery, name) for name in async_celery.__all__)


def celery_app(**conf: Any) -> Celery:
    # Nobody listens there: making a client connects to nothing.
    app = Celery(broker="amqp://127.0.0.1:9//", backend="redis://127.0.0.1:9", set_as_current=False)
    app.conf.update({"broker_transport_options": {"confirm_publish": True}} | conf)
    return app


def test_a_configured_app_is_taken_and_left_as_it_is() -> None:
    app = celery_app()
    before = app.conf.table(with_defaults=True, censored=False)
    AsyncCelery(app, task_id_key=KEY)
    assert app.conf.table(with_defaults=True, censored=False) == before


def test_publisher_confirms_are_required() -> None:
    with pytest.raises(ValueError, match="confirm_publish"):
        AsyncCelery(celery_app(broker_transport_options={}), task_id_key=KEY)


def test_results_must_be_in_redis() -> None:
    app = celery_app()
    app.conf.update(result_backend="cache+memory://")
    with pytest.raises(ValueError, match="redis://"):
        AsyncCelery(app, task_id_key=KEY)


def test_results_must_outlive_the_deadline() -> None:
    with pytest.raises(ValueError, match="result_expires"):
        AsyncCelery(celery_app(result_expires=timedelta(minutes=1)), task_id_key=KEY)
    AsyncCelery(celery_app(result_expires=60), task_id_key=KEY, task_deadline=60)
    AsyncCelery(celery_app(result_expires=None), task_id_key=KEY)


def test_a_key_is_required_to_be_long() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        AsyncCelery(celery_app(), task_id_key=b"short")
