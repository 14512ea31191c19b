"""Work queues: what a queue must be so that no task that it accepted is lost.

How it works: a RabbitMQ queue exists with the arguments that it was first declared with, and refuses every other
declaration. Producers and workers both declare, so both take the queue from `work_queue`, and say the same when
there is another one (`clash_of`).

What belongs here: the arguments of work queues, each with its reason, and what to do when others are there. Dead
letters' own queues are in `worker/dead_letters.py`.
"""

import re
from collections.abc import Mapping

from amqp.exceptions import PreconditionFailed
from celery import Celery
from kombu import Exchange, Queue

DEAD_LETTER_EXCHANGE = "dead-letters"
"""Where a work queue sends what it gives up: rejected, expired, or delivered too often."""


_DECLARATIONS: Mapping[tuple[int, ...], str] = {(40, 10): "exchange", (50, 10): "queue"}
"""AMQP 0-9-1's class and method of `exchange.declare` and `queue.declare`."""
_NAME = re.compile(r"(?:queue|exchange) '([^']*)'")


class QueueClash(Exception):  # noqa: N818 (as the errors of this package)
    """A queue or an exchange exists with other arguments than ours. It never passes by itself."""


def work_queue(name: str, *, max_length: int, delivery_limit: int) -> Queue:
    """Return the queue `name` for `task_queues`, with its exchange of the same name.

    Args:
        name: also the routing key, and that of its dead letters.
        max_length: messages; a producer's next one is refused (`Nacked`), those in the queue stay.
        delivery_limit: how often a message may come back unfinished before it is a dead letter. It also counts
            restarts of workers and of the broker: only a backstop behind the attempts that the worker counts.
    """
    return Queue(
        name,
        # A topic exchange: delayed delivery (countdown, eta, retries) cannot reach a queue through another kind.
        Exchange(name, type="topic", durable=True),
        routing_key=name,
        durable=True,
        queue_arguments={
            # Replicated, and on disk before the producer has its confirm.
            "x-queue-type": "quorum",
            "x-delivery-limit": delivery_limit,
            "x-max-length": max_length,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
            "x-dead-letter-routing-key": name,
            # A dead letter leaves the queue when the next one has confirmed it; needs `reject-publish`.
            "x-dead-letter-strategy": "at-least-once",
        },
    )


def declare_queues(app: Celery, *, timeout: float) -> None:
    """Declare the queues that a producer's app knows, so that a clash is found before the first task is sent.

    Blocks. Args:
        app: with `task_queues`.
        timeout: in s, for each answer of the broker.

    Raises:
        QueueClash: one of them exists, and is another one.
        Exception: the broker is not there, or does not answer.
    """
    answers = {"read_timeout": timeout, "write_timeout": timeout}
    with app.connection_for_write(connect_timeout=timeout, transport_options=answers) as connection:
        # `connect()` would try again after 2 s.
        connection.ensure_connection(max_retries=0)
        try:
            for queue in app.amqp.queues.values():
                queue.bind(connection.default_channel).declare()
        except PreconditionFailed as exc:
            raise clash_of(exc) or exc from exc


def clash_of(refusal: PreconditionFailed) -> QueueClash | None:
    """Return what it means that the broker refused a declaration; None when it refused something else."""
    kind = _DECLARATIONS.get(refusal.method_sig or ())
    if kind is None:
        return None
    name = match[1] if (match := _NAME.search(str(refusal.reply_text))) else "of this name"
    how = f"`rabbitmqctl delete_queue {name}`" if kind == "queue" else "on RabbitMQ's management page"
    return QueueClash(
        f"The {kind} {name!r} exists already, and is not as it is declared here: {refusal.reply_text}. An older "
        f"or a different version of this project has made it. Let the {kind}'s messages be worked off, stop all "
        f"that use it, delete it ({how}), and start again: it is declared anew."
    )
