"""aiormq with bare messages: the asyncio AMQP client below aio-pika, without any task in the message.

How it works: the body has the size of ours, persistent, mandatory, confirmed one by one. It shows what a pure
Python asyncio client does before a task library adds anything.

What belongs here: aiormq's row.
"""

import asyncio
from typing import Any

import aiormq
from bench_protocol import Command, enqueue, main

_BODY = b"x" * 78  # bytes: the body of a no-op task in Celery's protocol
_PERSISTENT = aiormq.spec.Basic.Properties(delivery_mode=2)


def _enqueue(asked: Command) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        connection = await aiormq.connect(asked.broker)
        try:
            channel = await connection.channel()  # with publisher confirms, aiormq's default
            return await enqueue(
                asked,
                lambda: channel.basic_publish(
                    _BODY, routing_key=asked.queue, properties=_PERSISTENT, mandatory=True
                ),
            )
        finally:
            await connection.close()

    return asyncio.run(run())


if __name__ == "__main__":
    main({"enqueue": _enqueue})
