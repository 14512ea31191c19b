"""What must exist at the broker before a message can be sent: queues, exchanges, bindings.

How it works: kombu's entities know how to declare themselves on a channel, and kombu declares the queues of
delayed delivery. Both are given a channel that does nothing but write down the requests, in their order, for a
native channel to make. So a queue is declared here exactly as Celery's producers and workers declare it, and no
declaration clashes.

What belongs here: from kombu's entities to AMQP requests. When they are made is `publisher.py`'s.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu.transport import native_delayed_delivery
from kombu.transport.base import to_rabbitmq_queue_arguments  # type: ignore[attr-defined]  # not in the stubs

from async_celery import amqp

# The 28 binary digits of a delay in s, and the routing key that the message has in the end.
_DELAYED = re.compile(r"(?:[01]\.){28}(.*)", re.DOTALL)
_FIRST_DELAY_EXCHANGE = native_delayed_delivery.level_name(native_delayed_delivery.MAX_LEVEL)


def without_delay(routing_key: str) -> str:
    """Return the routing key that a message has in the end, also one that the broker was to deliver later."""
    delayed = _DELAYED.fullmatch(routing_key)
    return delayed[1] if delayed else routing_key


@dataclass(frozen=True, kw_only=True, eq=False)
class Topology:
    """The requests that declare what a message needs. One object per set of names: compared by identity."""

    names: tuple[str, ...]
    requests: Sequence[amqp.Method]

    def __str__(self) -> str:
        return ", ".join(self.names)


class Topologies:
    """Finds the topology of a message. One per Celery app; remembers what it has found."""

    def __init__(self, celery_app: Celery) -> None:
        """Take the app whose queues count; it learns those that it does not know by their names."""
        self._app: Any = celery_app
        self._known: dict[tuple[str, ...], Topology] = {}

    def of(self, entities: Sequence[Any], exchange: str, routing_key: str) -> Topology:
        """Return what a message needs.

        Args:
            entities: what Celery would declare for it.
            exchange: where it is published to.
            routing_key: together with that exchange, it tells a message that the broker is to deliver later.
        """
        delayed = _DELAYED.fullmatch(routing_key) if exchange == _FIRST_DELAY_EXCHANGE else None
        names = tuple(f"{type(entity).__name__.lower()} {entity.name!r}" for entity in entities)
        if delayed is not None:
            names = (*names, f"delayed delivery to {delayed[1]!r}")
        if names not in self._known:
            requests = self._declarations(entities)
            if delayed is not None:
                requests += self._delayed_delivery(delayed[1])
            self._known[names] = Topology(names=names, requests=requests)
        return self._known[names]

    def _declarations(self, entities: Sequence[Any]) -> list[amqp.Method]:
        channel = _RecordingChannel()
        for entity in entities:
            entity.bind(channel).declare()
        return channel.requests

    def _delayed_delivery(self, routing_key: str) -> list[amqp.Method]:
        """Declare the queues in which messages wait, and bind those to which this routing key leads after them.

        Celery's worker does this when it starts. Until one has, the exchange does not exist; and what waits for a
        queue that nobody has bound is dropped in silence.
        """
        connection: Any = _RecordingChannel()
        native_delayed_delivery.declare_native_delayed_delivery_exchanges_and_queues(
            connection, self._app.conf.broker_native_delayed_delivery_queue_type
        )
        for queue in list(self._app.amqp.queues.values()):
            if queue.routing_key == routing_key:
                queue.bind(connection).declare()
                native_delayed_delivery.bind_queue_to_native_delayed_delivery_exchange(connection, queue)
        requests: list[amqp.Method] = connection.requests
        return requests


class _RecordingChannel:
    """What kombu's entities take for a channel, and kombu's functions for a connection: it writes down requests.

    The methods' names and parameters are py-amqp's; those that only matter for waiting are ignored.
    """

    channel_id = 0

    def __init__(self) -> None:
        self.requests: list[amqp.Method] = []

    def channel(self) -> "_RecordingChannel":
        """Return the channel of this connection."""
        return self

    def prepare_queue_arguments(self, arguments: Any, **options: Any) -> Any:
        """Do what kombu's own AMQP channel does."""
        return to_rabbitmq_queue_arguments(arguments, **options)

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        *,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        arguments: Any = None,
        **_: Any,
    ) -> None:
        """Record."""
        self.requests.append(
            amqp.exchange_declare(
                exchange, type, passive=passive, durable=durable, auto_delete=auto_delete, arguments=arguments
            )
        )

    def exchange_bind(
        self, destination: str, source: str, routing_key: str, arguments: Any = None, **_: Any
    ) -> None:
        """Record."""
        self.requests.append(amqp.exchange_bind(destination, source, routing_key, arguments))

    def queue_declare(
        self,
        queue: str,
        *,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Any = None,
        **_: Any,
    ) -> tuple[str, int, int]:
        """Record; return what the broker would: name, messages, consumers."""
        self.requests.append(
            amqp.queue_declare(
                queue,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=arguments,
            )
        )
        return queue, 0, 0

    def queue_bind(self, queue: str, exchange: str, routing_key: str, arguments: Any = None, **_: Any) -> None:
        """Record."""
        self.requests.append(amqp.queue_bind(queue, exchange, routing_key, arguments))
