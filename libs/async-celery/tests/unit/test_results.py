"""What the Redis backend makes of a Celery app, before it connects to anything."""

import ssl
from typing import Any, cast

import pytest
from celery import Celery
from celery.result import AsyncResult, GroupResult
from redis import UsernamePasswordCredentialProvider

from async_celery import results
from async_celery.resp import Address
from async_celery.results import RedisBackend, _celery_backend, _group_as_tuple
from async_celery.task_ids import TaskIds
from async_celery.types import NodeKind, TaskNode


def address_of(url: str | None, **conf: Any) -> Address:
    app = Celery(set_as_current=False, backend=url)
    app.conf.update(conf)
    return results.address_of(_celery_backend(app).connparams)


async def test_a_url_says_where_and_how() -> None:
    address = address_of("redis://me:s%40cret@example.org:7000/3")
    assert (address.host, address.port, address.db, address.path) == ("example.org", 7000, 3, None)
    assert await address.credentials() == ("me", "s@cret")
    assert address.tls is None


async def test_without_a_login_none_is_sent() -> None:
    assert await address_of("redis://").credentials() == ()
    assert await address_of("redis://:only@h").credentials() == ("only",)


async def test_settings_count_where_the_url_is_silent() -> None:
    address = address_of(
        "redis://", redis_host="h", redis_port=1, redis_db=2, redis_username="u", redis_password="p"
    )
    assert await address.credentials() == ("u", "p")
    assert address_of("redis://", redis_client_name="me").client_name == "me"


async def test_credentials_may_be_provided() -> None:
    provider = UsernamePasswordCredentialProvider("u", "p")
    address = address_of("redis://", redis_backend_credential_provider=provider)
    assert await address.credentials() == ("u", "p")


async def test_credentials_that_cannot_be_had_are_a_lost_connection() -> None:
    class Broken(UsernamePasswordCredentialProvider):
        def get_credentials(self) -> tuple[str]:
            raise RuntimeError("the vault is sealed")

    address = address_of("redis://", redis_backend_credential_provider=Broken("u"))
    with pytest.raises(ConnectionError, match="the vault is sealed"):
        await address.credentials()


async def test_a_unix_socket() -> None:
    address = address_of("redis+socket://:p@/tmp/redis.sock?virtual_host=2")
    assert (address.path, address.db) == ("/tmp/redis.sock", 2)
    assert await address.credentials() == ("p",)


@pytest.mark.parametrize("required", ["CERT_REQUIRED", "required"])
def test_tls_by_url(required: str) -> None:
    tls = address_of(f"rediss://h/0?ssl_cert_reqs={required}").tls
    assert tls is not None
    assert tls().verify_mode is ssl.CERT_REQUIRED
    assert tls().check_hostname


def test_tls_by_setting() -> None:
    tls = address_of("redis://h", redis_backend_use_ssl={"ssl_cert_reqs": ssl.CERT_NONE}).tls
    assert tls is not None
    assert tls().verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("sentinel://h:26379/0", "single Redis server.* redis://, rediss:// or redis\\+socket://"),
        ("redis-cluster://h", "redis://, rediss://"),
        ("file:///tmp", "single Redis server"),
        ("redis://a;redis://b", "several addresses"),
        ("nonsense", "redis://, rediss://"),
        ("rediss://h", "ssl_cert_reqs"),
        ("redis://h/notanumber", "invalid literal"),
        ("rediss://h?ssl_cert_reqs=none&ssl_validate_ocsp=1", "TLS settings"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(url: str, match: str) -> None:
    app = Celery(set_as_current=False, backend=url)
    with pytest.raises(ValueError, match=match):
        RedisBackend(app, ids=TaskIds(b"0" * 16), backend_timeout=1)


def test_the_app_is_left_as_it_was() -> None:
    app = Celery(set_as_current=False, backend="redis://h")
    before = dict(app.conf.table(with_defaults=True, censored=False))
    RedisBackend(app, ids=TaskIds(b"0" * 16), backend_timeout=1)
    assert dict(app.conf.table(with_defaults=True, censored=False)) == before
    assert "backend" not in vars(cast("Any", app)._local)


def test_a_group_is_saved_as_celery_would() -> None:
    # Celery's Redis backend would connect here.
    app = Celery(set_as_current=False, backend="cache+memory://")
    inner = GroupResult("inner", [AsyncResult("b", app=app), AsyncResult("c", app=app)], app=app)
    result = GroupResult(
        "outer", [AsyncResult("a", app=app), cast("Any", inner), AsyncResult("d", app=app)], app=app
    )

    def task(id_: str) -> TaskNode:
        return TaskNode(kind=NodeKind.TASK, id=id_, name="t")

    chain = TaskNode(kind=NodeKind.CHAIN, id="d", name="chain", children=(task("x"), task("d")))
    group = TaskNode(kind=NodeKind.GROUP, id="inner", name="group", children=(task("b"), task("c")))
    tree = TaskNode(kind=NodeKind.GROUP, id="outer", name="group", children=(task("a"), group, chain))
    assert _group_as_tuple(tree) == result.as_tuple()
