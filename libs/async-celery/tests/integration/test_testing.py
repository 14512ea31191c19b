"""FakeCelery says what real servers say: the same canvases, on both."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import Signature

from async_celery import AsyncCelery, TaskError, TaskStatus
from async_celery.testing import FakeCelery

from .conftest import Eventually

SIGNATURES: dict[str, Callable[[Any], Any]] = {
    "task": lambda s: s("add", 1, 2),
    "failure": lambda s: s("fail"),
    "wrong arguments": lambda s: s("add", 1),
    "chain": lambda s: chain(s("add", 1, 2), s("add", 3), s("echo", "x", immutable=True)),
    "group": lambda s: group(s("add", n, n) for n in range(3)),
    "group of chains": lambda s: group(chain(s("add", 1, 1), s("add", 1)), s("echo", [1])),
    "chord": lambda s: chord([s("add", 1, 1), s("add", 2, 2)], s("total")),
    "group in a chain": lambda s: chain(s("add", 1, 1), group(s("add", 1), s("add", 2)), s("total"), s("add", 1)),
    "chain of one group": lambda s: chain(s("add", 1, 1), group(s("add", 1)), s("total")),
    "chord in a chord": lambda s: chord([chord([s("add", 1, 1)], s("total")), s("add", 2, 2)], s("total")),
    # One failure only: of two, whichever process was faster would be named.
    "chord whose header fails": lambda s: chord([s("add", 1, 1), s("fail", message="again")], s("total")),
    "chain that fails": lambda s: chain(s("add", 1, 1), s("fail"), s("echo")),
}


# What the sample worker's tasks of these names do.
def add(x: int, y: int) -> int:
    return x + y


def fail(*_: Any, message: str = "boom") -> None:
    raise ValueError(message)


def total(values: list[int]) -> int:
    if not isinstance(values, list):
        raise TypeError(f"total takes a list, not {values!r}")
    return sum(values)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("canvas", SIGNATURES.values(), ids=SIGNATURES)
async def test_the_fake_says_what_servers_say(
    client: AsyncCelery,
    celery_app: Celery,
    queue: str,
    canvas: Callable[[Any], Any],
    eventually: Eventually,
) -> None:
    fake = FakeCelery()
    fake.register("add", add)
    fake.register("echo", lambda value: value)
    fake.register("fail", fail)
    fake.register("total", total)

    def signature(name: str, *args: Any, immutable: bool = False, **kwargs: Any) -> "Signature[Any]":
        return celery_app.signature(name, args=args, kwargs=kwargs, queue=queue, immutable=immutable)

    async def outcome(client: AsyncCelery) -> tuple[Any, ...]:
        handle = await client.submit(canvas(signature))
        try:
            result = await handle.result(timeout=10)
        except TaskError as error:
            return type(error), error.name, str(error).replace(error.task_id, "")

        async def all_have_ended() -> bool:
            # A worker sends what follows a task before it stores that task's own result.
            return has_ended(await handle.status())

        await eventually(all_have_ended)
        return result, told(await client.handle(handle.id).status())

    assert await outcome(fake) == await outcome(client)


def has_ended(status: TaskStatus) -> bool:
    return status.state.is_final and all(has_ended(child) for child in status.children)


def told(status: TaskStatus) -> tuple[Any, ...]:
    """Return what a status says, without what differs between any two runs."""
    children = [told(child) for child in status.children]
    return status.name, status.state, status.result, status.attempts, status.error, children
