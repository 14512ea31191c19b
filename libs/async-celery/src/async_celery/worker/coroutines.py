"""Coroutines: `async def` functions become tasks like any other.

How it works: Celery calls a task's `run` and takes what it returns for the result. `blocking` makes a function of
a coroutine function, which runs it on this thread's loop (`loops.py`) and returns when it has ended. It is put
around the body itself, beneath everything that Celery wraps around a body, so retries (`autoretry_for`) and
pydantic see results and exceptions, never a coroutine: `ReliableTask` does it when its class is made;
where Celery wraps the function before that (`pydantic=True`), `see_results` does it earlier.

What belongs here: which functions are coroutine functions, and what becomes of them.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from async_celery.worker import loops
from async_celery.worker.waiting import current_job, may_wait

if TYPE_CHECKING:
    from celery import Celery

P = ParamSpec("P")
R = TypeVar("R")

_MARK = "runs_coroutine"
"""Attribute of what `blocking` returns, which it holds itself; wrappers copy it (`functools.wraps`)."""


def blocking(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Return a function that runs the coroutine to its end.

    Raises (the function):
        RuntimeError: called on a running event loop, which would stand still meanwhile.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if (job := current_job()) is not None and job.has_run:
            return cast("R", job.replay())
        if asyncio._get_running_loop() is not None and not may_wait():
            raise RuntimeError(
                f"{function.__name__} is an async task, and an event loop runs here already: send it "
                "(`apply_async`), or await the function that it was made of"
            )
        return loops.run(function(*args, **kwargs))

    setattr(run, _MARK, run)
    return run


def runs_coroutine(function: Callable[..., Any]) -> bool:
    """Return whether a task's `run`, whatever is wrapped around it, runs a coroutine."""
    return hasattr(function, _MARK)


def body_of(task: Any) -> Callable[..., Coroutine[Any, Any, Any]] | None:
    """Return the coroutine function of a task whose `run` does nothing with a result but return it; else None."""
    # Celery's own wrapper, `autoretry_for`, looks at exceptions.
    run = getattr(task, "_orig_run", task.run)
    function = getattr(run, "__func__", run)
    made: Any = getattr(function, _MARK, None)
    if made is None or made is not function:
        return None
    body: Callable[..., Coroutine[Any, Any, Any]] = made.__wrapped__
    return body if function is run else MethodType(body, run.__self__)


def make_blocking(task_class: Any) -> None:
    """Have the class's `run` return a result, if it is a coroutine function: its own one, or a mixin's."""
    run: Any = inspect.getattr_static(task_class, "run")
    if isinstance(run, staticmethod):
        if inspect.iscoroutinefunction(run.__func__):
            task_class.run = staticmethod(blocking(run.__func__))
    elif inspect.iscoroutinefunction(run):
        task_class.run = blocking(run)


def see_results(app: "Celery") -> None:
    """Have Celery's pydantic wrapper see the results of the app's coroutine functions."""
    celery: Any = app
    make_task = celery._task_from_fun
    # A function that is registered again must be found to be the same.
    made: dict[Callable[..., Any], Callable[..., Any]] = {}

    def task_from_fun(function: Callable[..., Any], *args: Any, pydantic: bool = False, **options: Any) -> Any:
        if pydantic and inspect.iscoroutinefunction(function):
            function = made.setdefault(function, blocking(function))
        return make_task(function, *args, pydantic=pydantic, **options)

    celery._task_from_fun = task_from_fun
