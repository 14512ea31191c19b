"""Our worker: Celery's prefork with `async_celery.worker`, configured as project-worker configures its own.

How it works: everything that keeps its promises is on (late acknowledgement, the attempts and tombstones asked
for before each task, time limits, extended results, the history), on a queue without a dead-letter exchange, as
all contenders' queues are. With the pool `asyncio` its task is `async def`. `celery -A worker:app` finds its
command in the environment.

What belongs here: that app.
"""

from bench_protocol import command
from celery import Celery
from kombu import Exchange, Queue

from async_celery.worker import Policy, install

ASKED = command()

app = Celery("bench", broker=ASKED.broker, backend=ASKED.backend, set_as_current=False)
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    broker_heartbeat=10,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_time_limit=300,
    task_soft_time_limit=270,
    task_queues=[
        Queue(
            ASKED.queue,
            Exchange(""),
            routing_key=ASKED.queue,
            durable=True,
            queue_arguments={"x-queue-type": "quorum"} if ASKED.queue_type == "quorum" else None,
        )
    ],
    result_backend_always_retry=True,
    result_extended=True,
    redis_socket_timeout=5,
    redis_socket_connect_timeout=2,
    redis_socket_keepalive=True,
    redis_backend_health_check_interval=15,
    worker_pool=ASKED.pool,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
)
install(app, Policy())


def noop(number: int = 0) -> int:
    """Return the argument."""
    return number


async def async_noop(number: int = 0) -> int:
    """Return the argument."""
    return number


app.task(async_noop if ASKED.pool == "asyncio" else noop, name="noop")
