"""Read by mypy, never run: the decorator keeps a function's type, and refuses what is not the contract's result.

How it works: `assert_type` fails the type check when a type is another; an `ignore` that ignores nothing fails it
too, so each ignored line is one that mypy must refuse.
"""

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from project_contracts.contract import NoPayload, TaskContract
from worker.tasks.binding import TaskBinder

COUNT = TaskContract(name="tests.count", queue="project-worker", payload=NoPayload, result=int)


async def right(task: TaskBinder) -> None:
    @task(COUNT)
    def function() -> int:
        return 1

    @task(COUNT)
    async def coroutine_function() -> int:
        return 1

    one: Callable[[], int] = function
    other: Callable[[], Coroutine[Any, Any, int]] = coroutine_function
    assert_type(one(), int)
    assert_type(await other(), int)


def wrong(task: TaskBinder) -> None:
    @task(COUNT)  # type: ignore[arg-type]  # no int
    def function() -> str:
        return ""

    @task(COUNT)  # type: ignore[arg-type]  # no int
    async def coroutine_function() -> str:
        return ""
