"""Knowing about SIGTERM while requests still wait.

How it works: uvicorn lets open requests finish before it ends the lifespan, so a request that waits a minute
for a result would hold the shutdown for a minute. `shutdown_event` chains a handler in front of uvicorn's own
and sets an event at once; whoever waits for a result also waits for that event (`app/api/replies.py`).

What belongs here: signals.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def shutdown_event() -> Iterator[asyncio.Event]:
    """Yield an event that is set when the process is told to stop (SIGTERM, SIGINT).

    Outside the main thread (in-process test servers) no signal arrives and the event is never set.
    """
    event = asyncio.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(event.set)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in previous:
        signal.signal(number, stop)
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
