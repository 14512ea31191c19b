"""The producer's settings that a promise rests on."""

from celery._state import get_current_app

from app.celery.async_celery import create_celery
from app.core.config import Settings


def test_sends_are_confirmed_and_connections_kept_alive(settings: Settings) -> None:
    conf = create_celery(settings).conf
    assert conf.broker_transport_options["confirm_publish"] is True
    assert conf.redis_socket_keepalive is True
    assert conf.task_default_delivery_mode == "persistent"


def test_only_json_is_ever_read(settings: Settings) -> None:
    conf = create_celery(settings).conf
    assert conf.accept_content == ["json"]
    assert conf.result_accept_content == ["json"]
    assert conf.result_serializer == "json"


def test_the_app_is_never_current(settings: Settings) -> None:
    app = create_celery(settings)
    assert get_current_app() is not app
