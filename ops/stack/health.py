"""Health: does a service do its work? Asked the way its users ask it.

How it works: a check returns when the service works and raises `UnhealthyError` with the reason when it does not.
It logs in with the instance's credentials, so it also finds a stranger's server on our port.

What belongs here: one check per kind of service. When to check, and for how long, is `lifecycle.py`'s business.
"""

import base64
import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import amqp

from stack.instance import Instance

_PATIENCE = 2.0  # s, for one answer


class UnhealthyError(Exception):
    """A service does not do its work now; the text says why."""


def postgres(instance: Instance, psql: Path) -> None:
    """Log in and run a query."""
    query(instance, psql, "select 1")


def query(instance: Instance, psql: Path, statement: str) -> None:
    """Log in and run a statement."""
    command = [
        str(psql),
        "--no-psqlrc",
        "--tuples-only",
        f"--command={statement}",
        "--host",
        instance["POSTGRES_HOST"],
    ]
    command += [
        "--port",
        instance["POSTGRES_PORT"],
        "--username",
        instance["POSTGRES_USER"],
        instance["POSTGRES_DB"],
    ]
    environ = {"PGPASSWORD": instance["POSTGRES_PASSWORD"], "PGCONNECT_TIMEOUT": "2", "LC_ALL": "C"}
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=5, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnhealthyError("does not answer a query within 5 s") from error
    if done.returncode:
        raise UnhealthyError(" ".join(done.stderr.split()))


def redis(instance: Instance) -> None:
    """Log in and PING, in Redis' own protocol."""
    address = (instance["REDIS_HOST"], instance.port("REDIS_PORT"))
    request = f"AUTH {instance['REDIS_PASSWORD']}\r\nPING\r\n".encode()
    try:
        with (
            socket.create_connection(address, timeout=_PATIENCE) as connection,
            connection.makefile("rb") as answers,
        ):
            connection.sendall(request)
            lines = [answers.readline().decode(errors="replace").strip() for _ in range(2)]
    except OSError as error:
        raise UnhealthyError(str(error)) from error
    if lines != ["+OK", "+PONG"]:  # -LOADING while it reads its data, -NOAUTH from a stranger's server
        raise UnhealthyError(" ".join(lines) or "closes the connection")


def rabbitmq(instance: Instance) -> None:
    """Ask the management API whether the listener is up, then log in over AMQP."""
    number = instance.port("RABBITMQ_PORT")
    login = f"{instance['RABBITMQ_USER']}:{instance['RABBITMQ_PASSWORD']}"
    _get(
        f"http://127.0.0.1:{instance.port('RABBITMQ_MANAGEMENT_PORT')}/api/health/checks/port-listener/{number}",
        headers={"Authorization": "Basic " + base64.b64encode(login.encode()).decode()},
    )
    try:
        with _amqp(instance):
            pass
    except (OSError, amqp.AMQPError) as error:
        raise UnhealthyError(f"AMQP login: {error}") from error


def api(instance: Instance) -> None:
    """Ask the API whether it and everything it needs is ready."""
    _get(f"http://127.0.0.1:{instance.port('API_PORT')}/health/ready")


def answers(variable: str, path: str) -> Callable[[Instance], None]:
    """Return the check of a server that says at `path`, on the port that `variable` moves, whether it is well."""

    def check(instance: Instance) -> None:
        _get(f"http://127.0.0.1:{instance.port(variable)}{path}")

    return check


def exports(variable: str, sample: str) -> Callable[[Instance], None]:
    """Return the check of an exporter on the port that `variable` moves: it has the line `sample`."""

    def check(instance: Instance) -> None:
        page = _get(f"http://127.0.0.1:{instance.port(variable)}/metrics")
        if sample not in page.splitlines():
            raise UnhealthyError(f"its metrics have no line {sample!r}")

    return check


def scraped(instance: Instance, numbers: frozenset[int]) -> int:
    """Ask Prometheus whether it reaches every target on these ports; return how many there are."""
    targets = _targets(instance)
    ours = [target for target in targets if urlsplit(target["scrapeUrl"]).port in numbers]
    if unseen := numbers.difference(urlsplit(target["scrapeUrl"]).port for target in ours):
        raise UnhealthyError(f"Prometheus does not know the targets on {', '.join(map(str, sorted(unseen)))} yet")
    _require_up(ours)
    return len(ours)


def scraped_by_name(instance: Instance, jobs: Iterable[str], absent: Collection[str]) -> int:
    """Ask Prometheus whether it has targets of these jobs, and reaches all but those on absent hosts.

    Returns:
        How many it reaches.
    """
    targets = _targets(instance)
    if unseen := sorted(set(jobs).difference(target["labels"]["job"] for target in targets)):
        raise UnhealthyError(f"Prometheus does not know the targets of {', '.join(unseen)} yet")
    ours = [target for target in targets if urlsplit(target["scrapeUrl"]).hostname not in absent]
    _require_up(ours)
    return len(ours)


def _targets(instance: Instance) -> list[dict[str, Any]]:
    page = _get(f"http://127.0.0.1:{instance.port('PROMETHEUS_PORT')}/api/v1/targets?state=active")
    targets: list[dict[str, Any]] = json.loads(page)["data"]["activeTargets"]
    return targets


def _require_up(targets: Iterable[dict[str, Any]]) -> None:
    if down := [target for target in targets if target["health"] != "up"]:
        states = (f"{t['labels']['job']} ({t['scrapeUrl']}): {t['lastError'] or t['health']}" for t in down)
        raise UnhealthyError("; ".join(states))


def consumed(instance: Instance, queue: str) -> None:
    """Ask the broker whether a queue has a consumer."""
    try:
        with _amqp(instance) as connection:
            declared = connection.channel().queue_declare(queue, passive=True)
    except amqp.NotFound as error:
        raise UnhealthyError(f"there is no queue {queue} yet") from error
    except (OSError, amqp.AMQPError) as error:
        raise UnhealthyError(f"the broker does not answer: {error}") from error
    if declared is None or not declared[2]:  # name, messages, consumers
        raise UnhealthyError(f"nobody consumes the queue {queue}")


def _amqp(instance: Instance) -> amqp.Connection:
    return amqp.Connection(
        host=f"{instance['RABBITMQ_HOST']}:{instance['RABBITMQ_PORT']}",
        userid=instance["RABBITMQ_USER"],
        password=instance["RABBITMQ_PASSWORD"],
        virtual_host=instance["RABBITMQ_VHOST"],
        connect_timeout=_PATIENCE,
        read_timeout=_PATIENCE,
        write_timeout=_PATIENCE,
    )


def _get(url: str, headers: dict[str, str] | None = None) -> str:
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310 (our own http:// addresses)
    # Without proxies from the environment: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_PATIENCE) as answer:
            return str(answer.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        with error:
            raise UnhealthyError(f"HTTP {error.code}: {_short(error.read(500))}") from error
    except OSError as error:  # includes URLError and timeouts
        raise UnhealthyError(str(error)) from error


def _short(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        return " ".join(json.dumps(json.loads(text)).split())
    except ValueError:
        return " ".join(text.split())
