"""Read by mypy, never run: right calls have the right types, wrong calls are errors.

How it works: `assert_type` fails the type check when a type is another; under `strict`, an `ignore` that ignores
nothing fails it too, so each ignored line is a call that mypy must refuse.
"""

from typing import Any, assert_type

from celery.canvas import Signature, chain, chord, group

from async_celery import AsyncCelery, GroupHandle, OnTimeout, TaskHandle, TaskStatus
from async_celery.testing import FakeCelery, SentTask


class Report:
    """Stands for a model with a validating constructor, such as pydantic's `model_validate`."""

    @classmethod
    def parse(cls, value: Any) -> "Report":
        raise NotImplementedError  # only mypy reads this file, nothing here is ever run


async def right(
    client: AsyncCelery, signature: "Signature[Any]", chained: chain, grouped: group, chorded: chord
) -> None:
    handle = await client.send_task("add", (1, 2), queue="q", result_type=int)
    assert_type(handle, TaskHandle[int])
    assert_type(await handle.result(timeout=1), int)
    assert_type(await handle.result(1, OnTimeout.KEEP), int)
    assert_type(await handle.status(), TaskStatus)
    assert_type(await handle.cancel(), bool)
    assert_type(await client.send_task("add", queue="q"), TaskHandle[Any])
    assert_type(await client.send_task("report", queue="q", result_type=Report.parse), TaskHandle[Report])
    assert_type(client.handle("id"), TaskHandle[Any])
    assert_type(client.handle("id", Report.parse), TaskHandle[Report])
    assert_type(await client.submit(signature, result_type=int), TaskHandle[int])
    assert_type(await client.submit(chained, result_type=int), TaskHandle[int])
    assert_type(await client.submit(grouped, result_type=int), GroupHandle[int])
    assert_type(await (await client.submit(grouped, result_type=int)).result(timeout=1), list[int])
    assert_type(await client.submit(chorded, result_type=Report.parse), TaskHandle[Report])
    assert_type(await client.submit(signature), TaskHandle[Any])
    assert_type(await client.submit(grouped), GroupHandle[Any])
    assert_type(client.new_task_id(), str)
    assert_type(await client.submit(grouped, task_id=client.new_task_id()), GroupHandle[Any])
    async for status in handle.watch():
        assert_type(status, TaskStatus)


async def right_in_tests(fake: FakeCelery) -> None:
    client: AsyncCelery = fake
    assert_type(await fake.send_task("add", queue="q", result_type=int), TaskHandle[int])
    assert_type(fake.assert_sent("add", (1, 2), {"z": 3}, queue="q", times=2), list[SentTask])
    fake.register("add", lambda x, y: x + y)
    with fake.broker_down(), fake.backend_down():
        await client.ping_broker()


async def wrong(client: AsyncCelery, handle: TaskHandle[int], grouped: group) -> None:
    await client.send_task("add")  # type: ignore[call-overload]  # no queue
    await client.send_task("add", 1, queue="q")  # type: ignore[call-overload]  # arguments are a sequence
    await client.send_task("add", queue="q", result_type=3)  # type: ignore[call-overload]  # not callable
    await client.submit("add")  # type: ignore[call-overload]  # no canvas
    await handle.result()  # type: ignore[call-arg]  # waiting always has an end
    await handle.result(timeout=1, on_timeout="revoke")  # type: ignore[arg-type]  # not the enum
    text: str = await handle.result(timeout=1)  # type: ignore[assignment]  # an int
    texts: TaskHandle[str] = await client.send_task("add", queue="q", result_type=int)  # type: ignore[arg-type]
    sums: TaskHandle[int] = await client.submit(grouped, result_type=int)  # type: ignore[assignment]  # a list
    await client.send_task("add", queue="q", countdown="5")  # type: ignore[call-overload]  # seconds
    await handle.watch()  # type: ignore[misc]  # iterated, not awaited
    del text, texts, sums


def wrong_in_tests(fake: FakeCelery) -> None:
    fake.register("add", 3)  # type: ignore[arg-type]  # not callable
    fake.fail("add", "no")  # type: ignore[arg-type]  # an exception
    fake.broker_down(ValueError)  # type: ignore[arg-type]  # a PublishError
    fake.assert_sent("add", 1)  # type: ignore[arg-type]  # arguments are a sequence
