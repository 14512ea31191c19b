"""Who traces the tasks of an app, in each process that runs them.

How it works: `install_tracing` is told how a process begins to trace. That happens after the fork, when the
pool's process starts (`worker_process_init`): a tracer has threads, which a fork does not copy. It ends with
the process, so that what it has not sent yet is sent: when the worker shuts down, and when a process is
replaced after so many tasks. The main process does not trace.

What belongs here: when tracing begins and ends. The spans are `async_celery.spans`'.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from celery import signals

from async_celery.spans import Tracer

if TYPE_CHECKING:
    from celery import Celery

_KEY = "async_celery_tracer"


def install_tracing(app: "Celery", open_tracer: Callable[[], AbstractContextManager[Tracer]]) -> None:
    """Have the tasks of `app` traced.

    Args:
        app: of `async_celery.worker.install`.
        open_tracer: called in each process of the pool; left at the end of the process.
    """
    opened = ExitStack()

    def begin(**_: Any) -> None:
        setattr(app, _KEY, opened.enter_context(open_tracer()))

    def end(**_: Any) -> None:
        setattr(app, _KEY, None)
        opened.close()

    for signal, receiver in (
        (signals.worker_process_init, begin),
        (signals.worker_process_shutdown, end),
    ):
        signal.connect(receiver, weak=False)


def tracer_of(app: "Celery") -> Tracer | None:
    """Return what traces the app's tasks in this process; None for nothing."""
    tracer: Tracer | None = getattr(app, _KEY, None)
    return tracer
