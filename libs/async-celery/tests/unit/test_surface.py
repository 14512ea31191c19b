"""The published names, and what a client refuses to start with."""

import ssl
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
        "BadCursor",
        "Blocked",
        "DeadLetter",
        "DeadLetterNotFound",
        "DeadLetters",
        "GroupHandle",
        "HistoryEntry",
        "HistoryPage",
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
        "TaskTimeline",
        "TransportError",
        "Unroutable",
        "Unsupported",
    ]
    assert all(hasattr(async_celery, name) for name in async_celery.__all__)


def celery_app(**conf: Any) -> Celery:
    # Nobody listens there: making a client connects to nothing.
    app = Celery(broker="amqp://127.0.0.1:9//", backend="redis://127.0.0.1:9", set_as_current=False)
    app.conf.update(conf)
    return app


@pytest.mark.parametrize("broker", ["amqp", "amqps", "pyamqp", "redis", "memory"])
@pytest.mark.parametrize("backend", ["redis://127.0.0.1:9", "rediss://127.0.0.1:9", "cache+memory://"])
def test_a_configured_app_is_taken_and_left_as_it_is(broker: str, backend: str) -> None:
    app = celery_app(
        broker_url=f"{broker}://127.0.0.1:9//",
        result_backend=backend,
        redis_backend_use_ssl={"ssl_cert_reqs": ssl.CERT_NONE} if backend.startswith("rediss") else None,
    )
    before = app.conf.table(with_defaults=True, censored=False)
    AsyncCelery(app, task_id_key=KEY)
    assert app.conf.table(with_defaults=True, censored=False) == before


@pytest.mark.parametrize(
    "backend",
    [
        "sentinel://127.0.0.1:9",
        "redis+cluster://127.0.0.1:9",
        "rediss+cluster://127.0.0.1:9",
        "redis://127.0.0.1:9;redis://127.0.0.1:10",
    ],
)
def test_results_must_be_in_one_redis(backend: str) -> None:
    with pytest.raises(
        ValueError, match="set result_backend to the redis://, rediss:// or redis\\+socket:// URL"
    ):
        AsyncCelery(celery_app(result_backend=backend), task_id_key=KEY)


def test_results_must_be_kept() -> None:
    with pytest.raises(ValueError, match="set result_backend, to a redis:// URL"):
        AsyncCelery(Celery(broker="amqp://127.0.0.1:9//", set_as_current=False), task_id_key=KEY)


@pytest.mark.parametrize(
    "conf", [{"broker_url": "nonsense://:secret@x"}, {"result_backend": "nonsense://:secret@x"}]
)
def test_nonsense_urls_are_refused_without_telling_a_password(conf: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="nonsense") as caught:
        AsyncCelery(celery_app(**conf), task_id_key=KEY)
    assert "secret" not in str(caught.value)


def test_results_must_outlive_the_deadline() -> None:
    with pytest.raises(ValueError, match="result_expires"):
        AsyncCelery(celery_app(result_expires=timedelta(minutes=1)), task_id_key=KEY)
    AsyncCelery(celery_app(result_expires=60), task_id_key=KEY, task_deadline=60)
    AsyncCelery(celery_app(result_expires=None), task_id_key=KEY)


def test_a_key_is_required_to_be_long() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        AsyncCelery(celery_app(), task_id_key=b"short")
