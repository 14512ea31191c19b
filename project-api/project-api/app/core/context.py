"""The request that is being served, for code that has no request at hand (logging, message headers).

How it works: the middleware sets the id and an empty list of tasks; who sends a task says so, and the request's
own log line names them: from a task's id to the request that it was sent for.

What belongs here: context variables, and the one way they are read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from project_contracts import traces
from project_contracts.headers import REQUEST_ID

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current HTTP request; it travels with every message sent meanwhile."""

sent_tasks: ContextVar[list[str] | None] = ContextVar("sent_tasks", default=None)
"""The ids of the tasks that the current HTTP request has sent so far."""


def message_headers() -> dict[str, str]:
    """Return what every message carries about the request it is sent for; nothing outside of a request."""
    current = request_id.get()
    return {} if current is None else {REQUEST_ID: current, **traces.headers()}


def note_task(task_id: str) -> None:
    """Have the current request's log line name a task."""
    tasks = sent_tasks.get()
    if tasks is not None:
        tasks.append(task_id)


@contextmanager
def on_behalf_of(request: str | None) -> Iterator[None]:
    """Meanwhile, do something for a request that was served before; None for no request."""
    token = request_id.set(request)
    try:
        yield
    finally:
        request_id.reset(token)
