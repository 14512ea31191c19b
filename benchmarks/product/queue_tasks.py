"""Queues tasks of project-worker, as the API does: `python -m queue_tasks COUNT [REQUEST-ID]`.

How it works: each task adds up one integer, its own. Started in the worker's environment and folder, whose app
declares the queue as the worker does. With a request's id, each message carries it.

What belongs here: that program.
"""

import sys

from project_contracts.headers import REQUEST_ID
from project_contracts.integers import INTEGERS_SUM
from worker.main import create_app


def queue_tasks(count: int, request_id: str | None = None) -> None:
    """Send `count` tasks; return when RabbitMQ has confirmed them all."""
    headers = {} if request_id is None else {REQUEST_ID: request_id}
    with create_app() as app, app.producer_pool.acquire(block=True) as producer:
        for number in range(count):
            app.send_task(
                INTEGERS_SUM.name,
                kwargs={"integers": [number]},
                queue=INTEGERS_SUM.queue,
                headers=headers,
                producer=producer,
                ignore_result=False,
            )


if __name__ == "__main__":
    queue_tasks(int(sys.argv[1]), *sys.argv[2:])
