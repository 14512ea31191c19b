"""Which servers a Celery app names as its broker, and how to get into them.

How it works: kombu parses the URLs and fills gaps from the other broker settings, as it does for Celery itself;
what it finds is written down as `amqp.Endpoint`s. Settings that count: `broker_write_url` or `broker_url` (a
list, or separated by `;`, for failover in that order), `broker_user`, `broker_password`, `broker_vhost`,
`broker_port`, `broker_use_ssl` (True or a dict of what py-amqp takes), `broker_login_method`, `broker_heartbeat`
(at most 10 s here), `broker_connection_timeout`.

What belongs here: reading the broker's settings. Connecting is `amqp.py`'s.
"""

import ssl
from collections.abc import Mapping
from typing import Any

from celery import Celery

from async_celery.amqp import Endpoint

_LONGEST_HEARTBEAT = 10.0  # s; what has died is noticed within two
_CONNECT_TIMEOUT = 4.0  # s, Celery's own default
_TLS_FILES = ("ca_certs", "certfile", "keyfile")
_TLS_OPTIONS = {*_TLS_FILES, "cert_reqs", "check_hostname", "ciphers", "server_hostname", "ssl_version"}


def endpoints_of(celery_app: Celery) -> tuple[Endpoint, ...]:
    """Return the servers, in the order in which to try them.

    Raises:
        ValueError: a URL or a TLS option cannot be understood; the message names it, never a password.
    """
    conf = celery_app.conf
    configured: Any = conf.broker_write_url or conf.broker_url or "amqp://"
    urls = configured.split(";") if isinstance(configured, str) else configured
    return tuple(_endpoint(celery_app, url.strip()) for url in urls)


def _endpoint(celery_app: Celery, url: str) -> Endpoint:
    conf = celery_app.conf
    try:
        # Nothing is opened; it knows the defaults, and what to do with a partial URL.
        parsed: Any = celery_app.connection_for_write(url)
        port, driver = parsed.port, parsed.transport.driver_type
    except (ValueError, KeyError, ImportError) as exc:
        raise ValueError(f"broker URL {_without_login(url)} cannot be understood: {exc}") from None
    if driver != "amqp":
        raise ValueError(f"broker URL {_without_login(url)} is not that of an AMQP broker")
    tls = parsed.ssl
    host = parsed.hostname or "localhost"
    heartbeat = conf.broker_heartbeat
    return Endpoint(
        # As kombu does: "localhost" may be ::1 first, where RabbitMQ may not listen.
        host="127.0.0.1" if host == "localhost" else host,
        port=port or (5671 if tls else 5672),
        user=parsed.userid or "guest",
        password=parsed.password or "guest",
        virtual_host=parsed.virtual_host or "/",
        mechanism=parsed.login_method or "PLAIN",
        tls=_tls_context(tls if isinstance(tls, Mapping) else {}) if tls else None,
        server_hostname=tls.get("server_hostname") if isinstance(tls, Mapping) else None,
        heartbeat=_LONGEST_HEARTBEAT if heartbeat is None else min(float(heartbeat), _LONGEST_HEARTBEAT),
        connect_timeout=conf.broker_connection_timeout or _CONNECT_TIMEOUT,
    )


def _without_login(url: str) -> str:
    """Return what may be shown of a URL: it may contain a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://…{rest.rpartition('@')[2]}" if rest else "without a scheme"


def _tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return a context that checks certificate and host name unless told not to."""
    unknown = options.keys() - _TLS_OPTIONS
    if unknown:
        raise ValueError(f"broker_use_ssl: unknown {sorted(unknown)}; known are {sorted(_TLS_OPTIONS)}")
    try:
        context = ssl.create_default_context(cafile=options.get("ca_certs"))
        if options.get("certfile"):
            context.load_cert_chain(options["certfile"], options.get("keyfile"))
        if options.get("ciphers"):
            context.set_ciphers(options["ciphers"])
    except OSError as exc:
        files = {name: options[name] for name in _TLS_FILES if options.get(name)}
        raise ValueError(f"broker_use_ssl: {files} cannot be used: {exc}") from exc
    requirement = options.get("cert_reqs", ssl.CERT_REQUIRED)
    context.check_hostname = options.get("check_hostname", requirement == ssl.CERT_REQUIRED)
    context.verify_mode = requirement
    return context
