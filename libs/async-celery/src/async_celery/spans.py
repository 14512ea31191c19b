"""What a client and a worker do as spans: intervals of a trace, that contain others and go on in other processes.

How it works: `AsyncCelery(tracer=…)`, and in a worker `worker.tracing`, take a `Tracer`. It is entered around
what takes its time; what it yields for a message travels in the message's headers, and the worker that gets the
message goes on with that trace. Without a tracer nothing is called. The one for OpenTelemetry is in
`tracing.py`, and only who imports that needs OpenTelemetry.

What belongs here: what can be traced, and in which words.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol


class Sending(NamedTuple):
    """Messages that are handed to the broker together.

    Attributes:
        task: the task's name; of a workflow `chain`, `group` or `chord`.
        task_id: the task's, or the workflow's.
        root_id: of the workflow that it belongs to; its own where it belongs to none.
        queue: where to; None for several.
        messages: how many.
        headers: the caller's own. They may say of which trace the message is part, where that was written down
            before: in an outbox, say.
    """

    task: str
    task_id: str
    root_id: str
    queue: str | None
    messages: int
    headers: Mapping[str, Any]


class Tracer(Protocol):
    """Makes spans. No method may raise, or wait; what is raised inside of a span is passed on."""

    def sending(self, sending: Sending) -> AbstractContextManager[Mapping[str, str]]:
        """Enter the span of messages on their way to the broker, until its confirm; yield headers for each."""

    def waiting(self, task: str | None, task_id: str) -> AbstractContextManager[None]:
        """Enter the span of somebody who waits for a result."""

    def processing(
        self, task: str, request: Mapping[str, Any]
    ) -> AbstractContextManager[Callable[[str, str | None], None]]:
        """Enter the span of a message in the process that runs its task; yield what is told how it ended.

        Args:
            task: its name.
            request: what Celery knows of the message, mostly its headers.
        """

    def asked(self, what: str, seconds: float) -> None:
        """Take note that a question to the result backend has just been answered, and took so long, in s."""
