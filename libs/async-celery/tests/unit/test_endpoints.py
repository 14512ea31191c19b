"""Broker settings: what Celery understands leads to the same place, what nobody understands is said at once."""

import ssl
from typing import Any

import pytest
from celery import Celery

from async_celery.amqp import Endpoint
from async_celery.endpoints import endpoints_of


def endpoints(url: Any = None, **conf: Any) -> tuple[Endpoint, ...]:
    app = Celery(broker=url, set_as_current=False)
    app.conf.update(conf)
    return endpoints_of(app)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://", ("127.0.0.1", 5672, "guest", "guest", "/")),
        ("amqp://localhost", ("127.0.0.1", 5672, "guest", "guest", "/")),
        ("pyamqp://u:p@host//", ("host", 5672, "u", "p", "/")),
        ("amqp://u:p@host:1234/v", ("host", 1234, "u", "p", "v")),
        ("amqp://u%40x:p%2F%3A%20@[::1]:1/%2Fv%2Fw", ("::1", 1, "u@x", "p/: ", "/v/w")),
        ("amqps://u:p@host/v", ("host", 5671, "u", "p", "v")),
    ],
)
def test_urls_are_read_as_celery_reads_them(url: str, expected: tuple[Any, ...]) -> None:
    (found,) = endpoints(url)
    assert (found.host, found.port, found.user, found.password, found.virtual_host) == expected
    assert (found.tls is not None) == url.startswith("amqps")


def test_several_servers_are_kept_in_order() -> None:
    for urls in ("amqp://a;amqp://b:1 ; amqp://c", ["amqp://a", "amqp://b:1", "amqp://c"]):
        assert [(e.host, e.port) for e in endpoints(urls)] == [("a", 5672), ("b", 1), ("c", 5672)]


def test_the_url_to_write_to_goes_first() -> None:
    (found,) = endpoints("amqp://read", broker_write_url="amqp://write")
    assert found.host == "write"


def test_settings_fill_what_the_url_leaves_open() -> None:
    (found,) = endpoints(
        "amqp://host", broker_user="u", broker_password="p", broker_heartbeat=3, broker_connection_timeout=7
    )
    assert (found.user, found.password, found.heartbeat, found.connect_timeout) == ("u", "p", 3, 7)
    assert endpoints("amqp://", broker_heartbeat=120)[0].heartbeat == 10
    assert endpoints("amqp://", broker_heartbeat=None)[0].heartbeat == 10
    assert endpoints("amqp://", broker_heartbeat=0)[0].heartbeat == 0
    assert endpoints("amqp://", broker_login_method="EXTERNAL")[0].mechanism == "EXTERNAL"


def test_tls_is_checked_unless_told_not_to() -> None:
    for found in (endpoints("amqps://host")[0], endpoints("amqp://host", broker_use_ssl=True)[0]):
        assert found.tls is not None
        assert found.tls.verify_mode is ssl.CERT_REQUIRED
        assert found.tls.check_hostname
    (lax,) = endpoints("amqp://host", broker_use_ssl={"cert_reqs": ssl.CERT_NONE, "server_hostname": "other"})
    assert lax.tls is not None
    assert lax.tls.verify_mode is ssl.CERT_NONE
    assert lax.server_hostname == "other"


@pytest.mark.parametrize(
    ("url", "conf"),
    [
        ("amqp://user:secret@host:port/", {}),
        ("amqp://user:secret@host:99999999/", {}),
        ("redis://user:secret@host/", {}),
        ("nonsense://user:secret@host/", {}),
        ("amqp://user:secret@good;amqp://user:secret@host:bad", {}),
        ("amqp://user:secret@[::1", {}),
    ],
)
def test_what_cannot_be_understood_is_said_without_the_password(url: str, conf: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="broker URL") as caught:
        endpoints(url, **conf)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ca_cert": "a typo"}, "unknown"),
        ({"ca_certs": "/no/such/file"}, "/no/such/file"),
        ({"certfile": "/no/such/file"}, "/no/such/file"),
    ],
)
def test_wrong_tls_options_are_named(options: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        endpoints("amqp://host", broker_use_ssl=options)
