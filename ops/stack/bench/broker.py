"""RabbitMQ seen from outside: queues are made, counted and emptied here, whatever a contender says it has sent.

What belongs here: what the rows ask of the broker.
"""

import time
from types import TracebackType
from typing import Self

import amqp

from stack.bench.contenders import ContenderError
from stack.instance import Instance

_TIMEOUT = 10.0  # s
_POLL = 0.02  # s
_SETTLE = 5.0  # s until a count must be right: a quorum queue counts a moment after it has confirmed


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


def _version(connection: amqp.Connection) -> str:
    properties: dict[str, object] = getattr(connection, "server_properties", {})  # its types do not know it
    return str(properties.get("version", "unknown"))
