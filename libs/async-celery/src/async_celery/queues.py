"""Work queues: what a queue must be so that no task that it accepted is lost.

How it works: a RabbitMQ queue exists with the arguments that it was first declared with, and refuses every other
declaration. Producers and workers both declare, so both take the queue from `work_queue`.

What belongs here: the arguments of work queues, each with its reason. Dead letters' own queues are in
`worker/dead_letters.py`.
"""

from kombu import Exchange, Queue

DEAD_LETTER_EXCHANGE = "dead-letters"
"""Where a work queue sends what it gives up: rejected, expired, or delivered too often."""


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
