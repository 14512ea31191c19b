"""Tasks whose log lines tests read, on the project's own app: `celery -A logs_app:app worker`.

What belongs here: tasks that write, print, fail, hang, die, and send tasks.
"""

import logging
import os
import signal
import time
from contextlib import suppress
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import chord
from celery.canvas import Signature
from celery.concurrency.asynpool import AsynPool

from worker.config import load_settings
from worker.main import create_app

# A child that died is replaced when its end is noticed; where Celery looks too early, when it looks again: after
# 5 s, which tests need not wait.
_timers = property(lambda pool: {pool.maintain_pool: 0.2})
AsynPool.timers = _timers  # type: ignore[method-assign,assignment]  # celery-types takes it for a method

app = create_app(load_settings())
logger = logging.getLogger("logs_app")


def sends(name: str, *args: object) -> Signature[Any]:
    return app.signature(name, args=args, immutable=True)


@app.task(name="say")
def say(text: str) -> str:
    """Write a line, and print one."""
    logger.info("said: %s", text)
    print(f"printed: {text}")  # noqa: T201 (what the test is about)
    return text


@app.task(name="say-async")
async def say_async(text: str) -> str:
    """Write a line in a coroutine."""
    logger.info("said: %s", text)
    return text


@app.task(name="stumble", autoretry_for=(ConnectionError,), retry_backoff=1, retry_jitter=False, bind=True)
def stumble(self: Any) -> None:
    """Succeed in the second run."""
    if not self.request.retries:
        raise ConnectionError("not yet")


@app.task(name="start-others", bind=True)
def start_others(self: Any) -> None:
    """Send a task and a chord, then be replaced."""
    sends("say", "child").apply_async()
    chord([sends("say", "member 1"), sends("say", "member 2")], sends("say", "body"), app=app).apply_async()
    raise self.replace(sends("say", "instead"))


@app.task(name="fail")
def fail(length: int) -> None:
    """Fail with a long message that holds a password."""
    raise ValueError(f"amqp://user:hunter2@host/ {'x' * length}")


@app.task(name="hang")
def hang() -> None:
    """Run into both time limits."""
    while True:
        with suppress(SoftTimeLimitExceeded):
            time.sleep(60)


@app.task(name="die")
def die() -> None:
    """Take its process with it."""
    os.kill(os.getpid(), signal.SIGKILL)
