"""Every error this library raises, under one root.

    AsyncCeleryError
    ├── TransportError            a server did not do its part; the client is closed
    │   ├── PublishError          the broker did not take the message (task_id)
    │   │   ├── Unroutable        it knows no queue for it
    │   │   ├── Nacked            it refused it (queue full)
    │   │   ├── Blocked           it takes no messages now (memory or disk alarm), or too many wait already
    │   │   └── PublishTimeout    it did not answer in time: the outcome is unknown
    │   └── BackendError          the result backend did not answer
    ├── Unsupported               the configured result backend cannot do this, Redis can
    ├── BadCursor                 a place in the history that no page has named (also a `ValueError`)
    ├── PayloadError              arguments or a canvas that cannot become a message
    ├── TaskNotFound              an id that nobody here accepted
    ├── DeadLetterNotFound        an id of which no dead letter is parked
    ├── TaskExpired               accepted, not finished by its deadline, or its result has gone
    ├── ResultTimeout             the wait is over, the task is not (also a `TimeoutError`)
    └── TaskError                 the task ended without a result
        ├── TaskFailed            it raised (type, message), or its result is not what was promised
        └── TaskRevoked           it was cancelled, or it expired in its queue

How it works: errors carry facts as attributes, so that a caller never parses a message; messages say what to
do. An error of Celery, kombu, amqp or redis is translated where it is met (`threads.py`) and is its `__cause__`.

What belongs here: exception classes only.
"""
# ruff: noqa: N818 (these names are the published surface; "Error" would only lengthen them)

from async_celery.types import TaskState


class AsyncCeleryError(Exception):
    """Root of all errors of this library."""


class TransportError(AsyncCeleryError):
    """Broker or backend did not do its part, or the client is closed; the same call may succeed later."""


class PublishError(TransportError):
    """The broker did not confirm; `task_id` is the id that was being sent, None for a ping or a revoke."""

    def __init__(self, message: str, *, task_id: str | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id


class Unroutable(PublishError):
    """The broker returned the message: no queue would have received it."""


class Nacked(PublishError):
    """The broker refused the message, as a full queue does."""


class Blocked(PublishError):
    """Nothing was sent: the broker takes no messages (memory or disk alarm), or too many wait for it already."""


class PublishTimeout(PublishError):
    """No answer in time: the message may or may not have been taken. Sending again under `task_id` is safe."""


class BackendError(TransportError):
    """The result backend did not answer in time, or answered with an error."""


class Unsupported(AsyncCeleryError):
    """The configured result backend cannot do what was asked for, at no time: a Redis server can."""


class BadCursor(AsyncCeleryError, ValueError):
    """`cursor` is no place in the history: a page names the next one's."""

    def __init__(self, cursor: str) -> None:
        super().__init__(f"{cursor!r:.60} is no cursor: use the one that the page before has named, or none")
        self.cursor = cursor


class PayloadError(AsyncCeleryError):
    """What was to be sent cannot become a message; nothing was published."""


class TaskNotFound(AsyncCeleryError):
    """No result, no record, and `task_id` was not made with this client's key."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} is not known here, or was sent by another producer and has not started")
        self.task_id = task_id


class DeadLetterNotFound(AsyncCeleryError):
    """There is no dead letter `id`: it was deleted or replayed, or never was one."""

    def __init__(self, id: str) -> None:
        super().__init__(f"there is no dead letter {id} (any more)")
        self.id = id


class TaskExpired(AsyncCeleryError):
    """`task_id` was accepted, but its deadline has passed and no (complete) result of it exists (any more)."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} is past its deadline and has no result: send it again")
        self.task_id = task_id


class ResultTimeout(AsyncCeleryError, TimeoutError):
    """The wait ended before the task.

    Attributes: `task_id`; `state`, as last seen; `timeout`, the wait in s; `revoked`, whether the task has been
    revoked (False: it was to be kept, or nobody could be told).
    """

    def __init__(self, *, task_id: str, state: TaskState, timeout: float, revoked: bool) -> None:
        outcome = "it was revoked" if revoked else "it goes on: ask for its result later"
        super().__init__(f"task {task_id} was {state} after {timeout:g} s; {outcome}")
        self.task_id = task_id
        self.state = state
        self.timeout = timeout
        self.revoked = revoked


class TaskError(AsyncCeleryError):
    """The task ended without a result; for a workflow, `task_id` and `name` are those of the child at fault."""

    def __init__(self, text: str, *, task_id: str, name: str | None) -> None:
        super().__init__(f"task {name or 'of unknown name'} ({task_id}) {text}")
        self.task_id = task_id
        self.name = name


class TaskFailed(TaskError):
    """The task raised: `type` is the exception's class name, `message` its text, never a traceback.

    `code` is the exception's own name for what is wrong, None when it has none.
    """

    def __init__(
        self, *, task_id: str, name: str | None, type: str, message: str, code: str | None = None
    ) -> None:
        super().__init__(f"failed: {type}: {message}", task_id=task_id, name=name)
        self.type = type
        self.message = message
        self.code = code


class TaskRevoked(TaskError):
    """The task was revoked; `reason` is Celery's: `revoked`, `terminated` or `expired`."""

    def __init__(self, *, task_id: str, name: str | None, reason: str) -> None:
        text = "expired in its queue" if reason == "expired" else f"was revoked: {reason}"
        super().__init__(text, task_id=task_id, name=name)
        self.reason = reason
