"""Binds a function to its contract: name, queue and serializer come from there and nowhere else.

How it works: `@task(CONTRACT)` makes a Celery task that carries the contract's name, queue and serializer and
the policy that all tasks share (what is retried, how often). A result model is returned as JSON by Celery's
own pydantic support. A function whose parameters are not the payload's fields is refused when the worker
starts. It may be `async def`: async_celery runs it on its child's event loop, all else is the same.

What belongs here: what all tasks have in common.
"""

import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from celery import Celery
from pydantic import ValidationError

from project_contracts.contract import TaskContract
from project_database.errors import DatabaseUnavailable, TransactionConflict
from worker.config import Settings

P = ParamSpec("P")
R = TypeVar("R")

RETRIED_ERRORS = (ConnectionError, TimeoutError, DatabaseUnavailable, TransactionConflict)
"""Errors that a second run may not meet; every other error is the task's answer.

A task that writes must bear it: its first run's transaction may have been committed, though nobody could say so.
"""

RESULT_IN_LOG_LENGTH = 100
"""Longest part of a result in a log line, in characters."""


class Register(Protocol[R]):
    """Registers a function whose result is `R`, or a coroutine function, and returns it as it was."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


@dataclass(frozen=True, kw_only=True)
class TaskBinder:
    """Registers functions on `app`, all with the policy of `settings`."""

    app: Celery
    settings: Settings

    def __call__(self, contract: TaskContract[Any, R]) -> Register[R]:
        """Return the decorator that registers a function under `contract`.

        Raises (the decorator):
            TypeError: the function's parameters are not the fields of the contract's payload.
        """

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            parameters = list(inspect.signature(function).parameters)
            fields = list(contract.payload.model_fields)
            if parameters != fields:
                raise TypeError(
                    f"{contract.name}: the function's parameters {parameters} must be the fields of "
                    f"{contract.payload.__name__}, in their order: {fields}"
                )
            self.app.task(
                name=contract.name,
                shared=False,  # of this app alone, not of every app in the process
                serializer=contract.serializer,
                pydantic=True,
                autoretry_for=RETRIED_ERRORS,
                max_retries=self.settings.task_max_retries,
                # Exponential, with full jitter: retries of many tasks do not come back at the same moment.
                retry_backoff=self.settings.retry_backoff_seconds,
                retry_backoff_max=self.settings.retry_backoff_max_seconds,
                retry_jitter=True,
                # The wait before the retry of a task whose child died (task_retry_on_worker_lost).
                default_retry_delay=self.settings.retry_backoff_seconds,
                resultrepr_maxsize=RESULT_IN_LOG_LENGTH,
            )(_with_readable_validation_errors(function))
            # Where the worker itself sends this task when it is named without a queue.
            routes = self.app.conf.task_routes or {}
            self.app.conf.task_routes = {**routes, contract.name: {"queue": contract.queue}}
            return function

        return register


def _with_readable_validation_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with _readable_validation_errors():
                return await function(*args, **kwargs)

        return run_async

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _readable_validation_errors():
            return function(*args, **kwargs)

    return run


@contextmanager
def _readable_validation_errors() -> Iterator[None]:
    # Celery stores an error as its type and arguments; pydantic's has no arguments, its message would be lost.
    try:
        yield
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise ValueError("; ".join(problems)) from error
