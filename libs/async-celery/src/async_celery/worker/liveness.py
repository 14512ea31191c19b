"""What a worker does when the broker takes its connection but refuses what it asks for there.

How it works: Celery ends the worker, with a traceback, on every error that closes a channel. But only one of them
is for good: a queue or an exchange that exists with other arguments. A permission that was withdrawn is given
back, a message that was not acknowledged in time is delivered again. So `Blueprint`, which starts the parts of
Celery's consumer, ends the worker with a message in the first case, and has Celery connect anew in the others
(the setting `broker_channel_error_retry`, which `RETRY_SETTINGS` holds). A queue that is deleted under its
consumer needs nothing of this: Celery takes that for a lost connection, connects and declares it again.

Celery binds every queue that the app knows to the exchanges of delayed delivery, but declares only those that
this worker consumes. `DelayedDelivery` declares the others first, or the worker would delay nothing until theirs
has started.

What belongs here: telling what an operator must change from what passes. Lost connections are Celery's own.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from amqp.exceptions import ChannelError, NotAllowed, PreconditionFailed
from celery.exceptions import WorkerShutdown
from celery.worker.consumer import Consumer, delayed_delivery

from async_celery.queues import clash_of

RETRY_SETTINGS: Mapping[str, object] = {"broker_channel_error_retry": True}
"""What Celery must be told for `Blueprint` to have its way."""

_PAUSE = 2.0  # s; Celery itself would try again at once

_CeleryBlueprint: Any = Consumer.Blueprint
_logger = logging.getLogger(__name__)


class DelayedDelivery(delayed_delivery.DelayedDelivery):
    """Celery's own, in which no queue is missing."""

    def start(self, c: Any) -> None:
        """Declare what the app knows, then have Celery bind it."""
        for queue in c.app.amqp.queues.values():
            queue.bind(c.connection.default_channel).declare()
        super().start(c)


class Blueprint(_CeleryBlueprint):  # type: ignore[misc]  # the stubs have a variable of this name
    """Celery's own, which starts the connection, the consumers and the event loop; put it into the Consumer."""

    default_steps: ClassVar[Sequence[Any]] = [
        step for step in _CeleryBlueprint.default_steps if not str(step).endswith(":DelayedDelivery")
    ] + [DelayedDelivery]

    def start(self, parent: Any) -> None:
        """Start all parts and run; ends only by an exception.

        Raises:
            WorkerShutdown: a queue or an exchange has other arguments than ours; the process ends with code 1.
        """
        try:
            super().start(parent)
        except PreconditionFailed as exc:
            if (clash := clash_of(exc)) is None:
                raise
            _logger.critical("%s", clash)
            raise WorkerShutdown(1) from exc
        except (ChannelError, NotAllowed) as exc:
            _logger.warning("The broker refuses what this worker needs: %s. Trying again in %g s.", exc, _PAUSE)
            time.sleep(_PAUSE)
            raise
