"""How long the worker waits between two attempts to reach a broker that is away.

How it works: kombu waits 2 s before the second attempt, then 2 s more each time, up to 30 s; Celery has no
setting for it. A worker that has waited a minute would then notice only half a minute after the broker is back.
The class below caps the wait; Celery takes it through its own extension point, the app's `amqp` class.

What belongs here: the broker connection's behaviour that no setting reaches.
"""

from typing import Any

from kombu import Connection

from async_celery.signed_pickle import SigningAMQP

LONGEST_WAIT = 4  # s; with RabbitMQ's own start-up, service resumes within 10 s of the broker's return


class PersistentConnection(Connection):
    """A broker connection that keeps trying at short intervals."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Connect, or try again for as long as kombu would, never waiting longer than `LONGEST_WAIT`."""
        return super().ensure_connection(*args, **{"interval_max": LONGEST_WAIT, **options})


class WorkerAMQP(SigningAMQP):
    """Celery's AMQP configuration with our connection; what it sends as signed pickle is signed."""

    Connection = PersistentConnection
