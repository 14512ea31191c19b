"""The queues as the API finds them at its start: RabbitMQ declares a queue only once, with whatever arguments.

How it works: the API declares its queues before it takes requests. A broker that is away is no reason not to
start: then the first message declares them. Queues that are there and are others never become right by waiting:
every POST would be a 503, so the process says what to do, and ends.

What belongs here: that check.
"""

import asyncio
import logging

from celery import Celery

from async_celery.queues import QueueClash, declare_queues

_TIMEOUT = 2.0  # s, for each answer of the broker

logger = logging.getLogger(__name__)


async def check_queues(app: Celery) -> None:
    """Declare the API's queues, if the broker is there.

    Raises:
        QueueClash: one of them is another one; the message says what to do.
    """
    try:
        await asyncio.to_thread(declare_queues, app, timeout=_TIMEOUT)
    except QueueClash as clash:
        logger.critical("%s", clash)
        raise
    except Exception as exc:
        logger.warning("The broker is not there yet, queues are declared later: %s", exc)
