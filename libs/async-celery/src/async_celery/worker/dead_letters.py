"""Dead letters at the broker: where they arrive, where they are kept, and what is written on them.

How it works: a work queue gives up a message that was rejected, delivered too often, or has expired. RabbitMQ
moves it to the exchange `dead-letters` and so into the inbox, which the reaper (`reaper.py`) empties: it ends the
task for whoever waits, and parks the message, unless it has only expired, with the reason in its headers. What is
parked stays until somebody deletes or replays it (`async_celery.dead_letters`).

    work queue ──▶ exchange dead-letters ──▶ dead-letters.inbox ──▶ reaper ──▶ dead-letters

Both queues are declared by every worker and by the reaper, so that nothing is given up into the void.

What belongs here: names, arguments, headers, and publishing so that nothing is lost on the way.
"""

import re
from collections.abc import Mapping
from typing import Any

from amqp import Message as AmqpMessage
from amqp.exceptions import AMQPError
from amqp.serialization import dumps
from celery import bootsteps
from kombu import Connection, Exchange, Queue
from kombu.compression import compress
from kombu.message import Message

from async_celery.queues import DEAD_LETTER_EXCHANGE

_EXCHANGE = Exchange(DEAD_LETTER_EXCHANGE, type="topic", durable=True)

INBOX = Queue(
    "dead-letters.inbox",
    _EXCHANGE,
    # Their routing keys are the names of the queues that they come from.
    routing_key="#",
    durable=True,
    queue_arguments={
        # At-least-once dead-lettering waits for the confirm of a queue that is replicated as well.
        "x-queue-type": "quorum",
        # RabbitMQ 4 drops what came back 20 times, and 3.10 knows no -1 for "never". A reaper that dies, or finds
        # Redis down, gives its messages back.
        "x-delivery-limit": 1_000_000_000,
    },
)
"""Where dead letters arrive; read by reapers only."""

PARKED = Queue(
    "dead-letters",
    durable=True,
    # To look at a message is to fetch it and to give it back. A quorum queue writes each of that to its log,
    # which it cannot cut as long as an older message lies in it, and RabbitMQ 4 counts it as a failed delivery.
    # To a classic queue it is nothing, and the message is back in its old place. Durable, persistent and
    # confirmed, what lies there survives the broker's death as well.
    queue_arguments={"x-queue-type": "classic"},
)
"""Where dead letters are kept until somebody decides."""

ID = "x-dead-letter-id"
"""The task's id; of a message without one, or with one that is no name (`is_plain`), an id of its own."""
REASON = "x-dead-letter-reason"
"""RabbitMQ's: `rejected`, `delivery_limit`, `maxlen`; or `expired`, when its end could not be stored."""
ERROR_TYPE, ERROR = "x-dead-letter-error-type", "x-dead-letter-error"
"""The exception that the task ended with: class name and text."""
QUEUE = "x-dead-letter-queue"
"""The work queue that gave it up."""
AT = "x-dead-letter-at"
"""When it was parked, in s since 1970."""
ATTEMPTS = "x-dead-letter-attempts"
"""How many of its runs had begun, where that is known."""

_DEATH = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-dead-letter-")
"""How headers begin that tell of an earlier death: RabbitMQ's and ours."""

_PERSISTENT = 2
_MOST_HEADER_BYTES = 120 * 1024
"""All headers go into one frame, of 128 KiB with the properties; a larger one closes the connection."""

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._:@-]{0,254}")

_CONFIRM_TIMEOUT = 5.0  # s


def is_plain(task_id: Any) -> bool:
    """Return whether a task's id can stand in an address and on a command line as it is."""
    return isinstance(task_id, str) and _PLAIN.fullmatch(task_id) is not None


def declare(connection: Connection) -> None:
    """Make sure that the exchange and both queues exist.

    Raises:
        amqp.PreconditionFailed: one of them exists with other arguments.
    """
    with connection.channel() as channel:
        for queue in (INBOX, PARKED):
            queue.bind(channel).declare()


class DeadLetterTopology(bootsteps.StartStopStep):
    """Declares them when a worker connects, before it takes its first message."""

    # By its name: who only reads dead letters needs no worker.
    requires = ("celery.worker.consumer:Connection",)

    def start(self, c: Any) -> None:
        """Declare; called by the worker's consumer after each connect."""
        declare(c.connection)


def without_deaths(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that the message had when it was sent."""
    return {name: value for name, value in headers.items() if not name.startswith(_DEATH)}


def can_be_sent(headers: Mapping[str, Any]) -> bool:
    """Return whether a message can have these headers: some can be read and not written, or are too long now."""
    try:
        return len(dumps("F", (dict(headers),))) <= _MOST_HEADER_BYTES
    except Exception:  # what the encoder meets in values that it does not know
        return False


def publish_copy(
    connection: Connection, message: Message, headers: Mapping[str, Any], *, exchange: str, routing_key: str
) -> None:
    """Publish a message once more, its body and properties as they are; return when a queue has it for certain.

    Args:
        connection: one that was opened with the transport option `confirm_publish`.
        message: as it was received.
        headers: in place of its own.
        exchange: "" for the queue named `routing_key`.
        routing_key: see `exchange`.

    Raises:
        AMQPError, OSError, OperationalError: no queue has confirmed it. It may have arrived.
    """
    # By itself it would try to connect for ever.
    connection.ensure_connection(max_retries=0)
    channel: Any = connection.default_channel
    properties = {**message.properties, "application_headers": dict(headers), "delivery_mode": _PERSISTENT}
    # It has waited for its time once.
    properties.pop("expiration", None)
    body = message.body or b""
    if (compression := headers.get("compression")) and not message.errors:
        # kombu has unpacked it.
        body, _ = compress(body, compression)
    copy = AmqpMessage(body, **properties)
    try:
        channel.basic_publish(
            copy,
            exchange=exchange,
            routing_key=routing_key,
            # Returned for want of a queue, it raises here, as nobody listens for returns.
            mandatory=True,
            confirm_timeout=_CONFIRM_TIMEOUT,
        )
    except (AMQPError, OSError):
        # A confirm that comes later would be taken for the next message's.
        connection.collect()
        raise
