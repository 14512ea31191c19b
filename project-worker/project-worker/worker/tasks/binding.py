"""Binds a function to its contract: name, queue and serializer come from there and nowhere else.

How it works: `@task(CONTRACT)` makes a Celery task that carries the contract's name, queue and serializer and
the policy that all tasks share (what is retried, how often). A result model is returned as JSON by Celery's
own pydantic support. A function whose parameters are not the payload's fields is refused when the worker
starts.

What belongs here: what all tasks have in common.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from celery import Celery
from pydantic import ValidationError

from project_contracts.contract import TaskContract
from worker.config import Settings

R = TypeVar("R")

RETRIED_ERRORS = (ConnectionError, TimeoutError)
"""Errors that a second run may not meet; every other error is the task's answer."""

RESULT_IN_LOG_LENGTH = 100
"""Longest part of a result in a log line, in characters."""


@dataclass(frozen=True, kw_only=True)
class TaskBinder:
    """Registers functions on `app`, all with the policy of `settings`."""

    app: Celery
    settings: Settings

    def __call__(self, contract: TaskContract[Any, R]) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """Return the decorator that registers a function under `contract`.

        Raises (the decorator):
            TypeError: the function's parameters are not the fields of the contract's payload.
        """

        def register(function: Callable[..., R]) -> Callable[..., R]:
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


def _with_readable_validation_errors(function: Callable[..., R]) -> Callable[..., R]:
    # Celery stores an error as its type and arguments; pydantic's has no arguments, its message would be lost.
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> R:
        try:
            return function(*args, **kwargs)
        except ValidationError as error:
            problems = (
                f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
                for item in error.errors(include_input=False, include_url=False)
            )
            raise ValueError("; ".join(problems)) from error

    return run
