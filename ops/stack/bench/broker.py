"""RabbitMQ seen from outside: queues are made, counted and emptied here, whatever a contender says it has sent.

How it works: classic queues are those of RabbitMQ 4, on an older broker too. Policies give them the second
version of their storage, which newer ones have alone; and where nobody consumes, messages lie on disk rather than
in memory, as newer ones keep all but the first 2,048. A queue of the type `FORMER` is left as the broker makes it
(docs/decisions/0011).

What belongs here: what the rows ask of the broker.
"""

import base64
import json
import time
import urllib.request
from types import TracebackType
from typing import Any, Self

import amqp

from stack.bench.contenders import ContenderError
from stack.instance import Instance

_TIMEOUT = 10.0  # s
_POLL = 0.02  # s
_SETTLE = 5.0  # s until a count must be right: a quorum queue counts a moment after it has confirmed

FORMER = "classic of 3.10"
"""A classic queue as RabbitMQ before 3.12 makes it, unless it is told otherwise."""

_FILLED, _CONSUMED, _FORMER = "filled", "consumed", "former"
_POLICIES: dict[str, dict[str, Any]] = {
    _FILLED: {"queue-version": 2, "queue-mode": "lazy"},
    _CONSUMED: {"queue-version": 2},
}


class Broker:
    """A connection of the harness; a context manager."""

    def __init__(self, instance: Instance) -> None:
        host = f"{instance['RABBITMQ_HOST']}:{instance['RABBITMQ_PORT']}"
        self.url = (
            f"amqp://{instance['RABBITMQ_USER']}:{instance['RABBITMQ_PASSWORD']}@{host}"
            f"/{instance['RABBITMQ_VHOST']}"
        )
        self._connection = amqp.Connection(
            host=host,
            userid=instance["RABBITMQ_USER"],
            password=instance["RABBITMQ_PASSWORD"],
            virtual_host=instance["RABBITMQ_VHOST"],
            connect_timeout=_TIMEOUT,
            read_timeout=_TIMEOUT,
            write_timeout=_TIMEOUT,
        )
        self._connection.connect()
        self.version = _version(self._connection)
        if int(self.version.partition(".")[0]) < 4:
            for prefix, definition in _POLICIES.items():
                _put_policy(instance, prefix, definition)
        self._channel = self._connection.channel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def declare(self, queue: str, queue_type: str) -> None:
        """Make a durable queue; a classic one without arguments, as Celery declares it."""
        arguments = {"x-queue-type": "quorum"} if queue_type == "quorum" else {}
        self._channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)

    def count(self, queue: str) -> int:
        """Return how many messages are ready in the queue."""
        return self._look(queue)[0]

    def consumers(self, queue: str) -> int:
        """Return how many consumers the queue has; 0 while there is no such queue."""
        return self._look(queue)[1]

    def require(self, queue: str, count: int) -> None:
        """Make sure that the queue holds exactly so many messages.

        Raises:
            ContenderError: It holds more or fewer.
        """
        deadline = time.monotonic() + _SETTLE
        while (found := self.count(queue)) != count:
            if time.monotonic() > deadline:
                raise ContenderError(f"{count} tasks were said to be sent, {found} are in the queue")
            time.sleep(_POLL)

    def empty(self, queue: str) -> None:
        """Take everything out of the queue."""
        self._channel.queue_purge(queue)

    def forget(self, queue: str) -> None:
        """Empty a queue that may not be there yet, once whoever consumed it has gone.

        Raises:
            ContenderError: It still has a consumer.
        """
        deadline = time.monotonic() + _SETTLE
        while self.consumers(queue):
            if time.monotonic() > deadline:
                raise ContenderError(f"the queue {queue} has a consumer that is not of this turn")
            time.sleep(_POLL)
        if self.count(queue):
            self.empty(queue)

    def delete(self, queue: str) -> None:
        """Delete the queue with everything in it."""
        self._channel.queue_delete(queue)

    def _look(self, queue: str) -> tuple[int, int]:
        try:
            declared = self._channel.queue_declare(queue, passive=True)
        except amqp.NotFound:  # closes the channel
            self._channel = self._connection.channel()
            return 0, 0
        if declared is None:
            return 0, 0
        _, messages, consumers = declared
        return messages, consumers


def name_of(queue_type: str, number: int, *, consumed: bool) -> str:
    """Return the name of a queue, by which it gets its policy.

    Args:
        queue_type: classic, quorum or `FORMER`.
        number: one that no other queue has.
        consumed: whether its messages are consumed, or counted and thrown away.
    """
    prefix = _FORMER if queue_type == FORMER else _CONSUMED if consumed else _FILLED
    return f"bench-{prefix}-{number}"


def _put_policy(instance: Instance, prefix: str, definition: dict[str, Any]) -> None:
    login = f"{instance['RABBITMQ_USER']}:{instance['RABBITMQ_PASSWORD']}"
    address = f"http://127.0.0.1:{instance.port('RABBITMQ_MANAGEMENT_PORT')}"
    policy = {"pattern": f"^bench-{prefix}-", "definition": definition, "apply-to": "queues"}
    request = urllib.request.Request(  # noqa: S310 (our own server)
        f"{address}/api/policies/{instance['RABBITMQ_VHOST']}/{prefix}-as-in-rabbitmq-4",
        method="PUT",
        data=json.dumps(policy).encode(),
        headers={
            "Authorization": "Basic " + base64.b64encode(login.encode()).decode(),
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310
        pass


def _version(connection: amqp.Connection) -> str:
    properties: dict[str, object] = getattr(connection, "server_properties", {})  # its types do not know it
    return str(properties.get("version", "0"))
