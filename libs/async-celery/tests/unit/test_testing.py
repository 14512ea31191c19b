"""FakeCelery: it behaves as the real client does, and says what was sent."""

import ast
import asyncio
import contextlib
import importlib
import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from typing import Any
from unittest.mock import ANY

import pytest
from celery import Celery, chain, chord, group
from kombu import Exchange, Queue

import async_celery
from async_celery import (
    AsyncCelery,
    BackendError,
    Nacked,
    OnTimeout,
    PayloadError,
    PublishError,
    ResultTimeout,
    TaskErrorInfo,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TaskRevoked,
    TaskState,
    TaskStatus,
    TransportError,
    testing,
)
from async_celery.testing import FakeCelery

# Canvases are bound to an app; nothing listens there.
APP = Celery(broker="amqp://127.0.0.1:9//", backend="redis://127.0.0.1:9", set_as_current=False)


def add(*args: Any, queue: str = "sums", immutable: bool = False) -> Any:
    return APP.signature("add", args=args, queue=queue, immutable=immutable)


def total(queue: str = "sums") -> Any:
    return APP.signature("total", queue=queue)


@pytest.fixture
def fake() -> FakeCelery:
    return FakeCelery()


@pytest.fixture
def adding(fake: FakeCelery) -> FakeCelery:
    fake.register("add", lambda *terms: sum(terms))
    fake.register("total", sum)
    return fake


async def test_the_docstrings_example_runs() -> None:
    found = re.search(r"\n\n((?:    .*\n|\n)+)", testing.__doc__ or "")
    assert found is not None
    names: dict[str, Any] = {**vars(async_celery), "FakeCelery": FakeCelery, "pytest": pytest}
    code = compile(textwrap.dedent(found[1]), "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, names)  # noqa: S307 (our own text)
    assert [task.name for task in names["fake"].sent] == ["add", "report"]


def test_it_is_a_client_and_leaves_celery_alone() -> None:
    state: Any = importlib.import_module("celery._state")
    before = (state.default_app, getattr(state._tls, "current_app", None))
    assert isinstance(FakeCelery(), AsyncCelery)
    assert (state.default_app, getattr(state._tls, "current_app", None)) == before


async def test_a_registered_function_runs_at_once(fake: FakeCelery) -> None:
    fake.register("join", lambda *words, sep: sep.join(words))
    handle = await fake.send_task("join", ("a", "b"), {"sep": "-"}, queue="words")
    assert await handle.result(timeout=1) == "a-b"
    status = await fake.handle(handle.id).status()
    assert (status.state, status.name, status.attempts) == (TaskState.SUCCESS, "join", 1)
    assert status.accepted_at is not None
    assert status.finished_at is not None
    assert status.accepted_at <= status.finished_at


async def test_what_a_function_raises_is_the_tasks_failure(fake: FakeCelery) -> None:
    def divide(x: int, y: int) -> float:
        return x / y

    fake.register("divide", divide)
    handle = await fake.send_task("divide", (1, 0), queue="q")
    with pytest.raises(TaskFailed) as caught:
        await handle.result(timeout=1)
    error = caught.value
    assert (error.task_id, error.name, error.type) == (handle.id, "divide", "ZeroDivisionError")
    assert error.message == "division by zero"
    with pytest.raises(TaskFailed, match="TypeError"):
        await (await fake.send_task("divide", queue="q")).result(timeout=1)


async def test_a_result_that_is_not_json_is_the_tasks_failure(fake: FakeCelery) -> None:
    fake.register("odd", object)
    with pytest.raises(TaskFailed, match="cannot be serialised"):
        await (await fake.send_task("odd", queue="q")).result(timeout=1)


async def test_an_exception_without_json_arguments_is_stored(fake: FakeCelery) -> None:
    await fake.send_task("odd", queue="q")
    fake.fail("odd", ValueError("no", KeyError("key")))
    error = (await fake.handle(fake.sent[0].id).status()).error
    # Celery stores the `repr` of what is not JSON.
    assert error == TaskErrorInfo(type="ValueError", message="no, KeyError('key')")


async def test_without_a_function_the_test_decides(fake: FakeCelery) -> None:
    handle = await fake.send_task("slow", queue="q", result_type=float)
    assert (await handle.status()).state is TaskState.QUEUED
    fake.start("slow")
    assert (await handle.status()).state is TaskState.STARTED
    fake.progress("slow", {"done": 1})
    assert (await handle.status()).progress == {"done": 1}
    fake.succeed(handle.id, 42)
    result = await handle.result(timeout=1)
    assert (result, type(result)) == (42, float)


async def test_a_name_means_the_oldest_that_has_not_ended(fake: FakeCelery) -> None:
    handles = [await fake.send_task("slow", (n,), queue="q") for n in range(3)]
    for n in range(3):
        fake.succeed("slow", n)
    assert [await handle.result(timeout=1) for handle in handles] == [0, 1, 2]
    with pytest.raises(LookupError, match=re.escape("slow(0) to q\n  slow(1) to q\n  slow(2) to q")):
        fake.succeed("slow")


async def test_what_has_ended_has_ended(fake: FakeCelery) -> None:
    handle = await fake.send_task("slow", queue="q")
    fake.fail(handle.id, ValueError("no"))
    for change in (partial(fake.succeed), partial(fake.fail, error=ValueError()), partial(fake.start)):
        with pytest.raises(ValueError, match="has ended already: FAILURE"):
            change(handle.id)
    with pytest.raises(LookupError, match="nothing was sent"):
        FakeCelery().succeed(handle.id)


async def test_a_result_is_waited_for(fake: FakeCelery) -> None:
    handle = await fake.send_task("slow", queue="q")
    waiting = [asyncio.create_task(handle.result(timeout=60)) for _ in range(3)]
    await asyncio.sleep(0)
    fake.succeed("slow", "here")
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == ["here"] * 3


async def test_another_thread_may_end_a_task(fake: FakeCelery) -> None:
    handle = await fake.send_task("slow", queue="q")
    # In debug mode the loop refuses to be touched by another thread.
    asyncio.get_running_loop().set_debug(True)
    # Late enough for the wait to have begun.
    thread = threading.Timer(0.1, fake.succeed, args=("slow", 1))
    thread.start()
    assert await handle.result(timeout=5) == 1
    thread.join()


async def test_watch_sees_every_change(fake: FakeCelery) -> None:
    handle = await fake.send_task("slow", queue="q")
    steps: Iterator[Callable[[str], None]] = iter(
        (fake.start, partial(fake.progress, progress=1), partial(fake.progress, progress=2), fake.succeed)
    )
    seen: list[tuple[TaskState, Any]] = []
    async with asyncio.timeout(5), contextlib.aclosing(handle.watch()) as changes:
        async for status in changes:
            assert isinstance(status, TaskStatus)
            seen.append((status.state, status.progress))
            if not status.state.is_final:
                next(steps)("slow")
    assert seen == [
        (TaskState.QUEUED, None),
        (TaskState.STARTED, None),
        (TaskState.PROGRESS, 1),
        (TaskState.PROGRESS, 2),
        (TaskState.SUCCESS, None),
    ]


async def test_a_timeout_revokes_or_keeps(fake: FakeCelery) -> None:
    handle = await fake.send_task("slow", queue="q")
    fake.start("slow")
    with pytest.raises(ResultTimeout) as kept:
        await handle.result(timeout=0.01, on_timeout=OnTimeout.KEEP)
    assert (kept.value.revoked, kept.value.state) == (False, TaskState.STARTED)
    with pytest.raises(ResultTimeout) as revoked:
        await handle.result(timeout=0.01)
    assert revoked.value.revoked
    with pytest.raises(TaskRevoked) as caught:
        await handle.result(timeout=1)
    assert caught.value.reason == "terminated"


async def test_cancel(fake: FakeCelery) -> None:
    queued, started = [await fake.send_task("slow", queue="q") for _ in range(2)]
    fake.start(started.id)
    assert await started.cancel(terminate=False)
    assert (await started.status()).state is TaskState.STARTED
    assert await started.cancel()
    assert await queued.cancel(terminate=False)
    assert [(await handle.status()).state for handle in (queued, started)] == [TaskState.REVOKED] * 2
    assert not await queued.cancel()
    with pytest.raises(TaskRevoked, match="terminated"):
        await started.result(timeout=1)
    with pytest.raises(TaskRevoked, match="revoked: revoked"):
        await queued.result(timeout=1)


async def test_unknown_forgotten_and_expired_ids(fake: FakeCelery, adding: FakeCelery) -> None:
    with pytest.raises(TaskNotFound):
        await fake.handle("7f8a0000-0000-4000-8000-000000000000").status()
    handle = await adding.send_task("add", (1, 2), queue="q")
    await handle.forget()
    assert (await handle.status()).state is TaskState.QUEUED
    assert fake.sent
    late = await FakeCelery(task_deadline=-2).send_task("slow", queue="q")
    with pytest.raises(TaskExpired):
        await late.status()


async def test_a_closed_client_sends_nothing(fake: FakeCelery) -> None:
    async with fake:
        await fake.ping_broker()
        await fake.ping_backend()
    with pytest.raises(TransportError, match="closed"):
        await fake.send_task("add", queue="q")


@pytest.mark.parametrize("error", [PublishError, Nacked])
async def test_a_broker_that_is_down(fake: FakeCelery, error: type[PublishError]) -> None:
    handle = await fake.send_task("slow", queue="q")
    with fake.broker_down(error):
        with pytest.raises(error) as caught:
            await fake.send_task("add", queue="q")
        assert caught.value.task_id is not None
        with pytest.raises(error):
            await fake.submit(add(1, 2))
        with pytest.raises(error):
            await fake.ping_broker()
        # The workers find the tombstone all the same.
        assert await handle.cancel()
    assert (await handle.status()).state is TaskState.REVOKED
    fake.assert_sent("add", times=0)
    await fake.send_task("add", queue="q")
    fake.assert_sent("add")


async def test_a_backend_that_is_down(fake: FakeCelery) -> None:
    handle = await fake.send_task("slow", queue="q")
    waiting = asyncio.create_task(handle.result(timeout=60))
    with fake.backend_down():
        with pytest.raises(BackendError):
            await handle.status()
        with pytest.raises(BackendError):
            await fake.ping_backend()
        fake.succeed("slow", 1)
        with pytest.raises(ResultTimeout):
            await handle.result(timeout=0.01, on_timeout=OnTimeout.KEEP)
        assert not waiting.done()
    async with asyncio.timeout(5):
        assert await waiting == 1


async def test_without_a_tombstone_nothing_counts_as_revoked(fake: FakeCelery) -> None:
    handle = await fake.send_task("slow", queue="q")
    with fake.backend_down(), pytest.raises(ResultTimeout) as caught:
        await handle.result(timeout=0.01)
    assert not caught.value.revoked


async def test_assert_sent(fake: FakeCelery) -> None:
    day = date(2026, 1, 1)
    await fake.send_task("note", (1, (2, day)), {"to": ("a", "b")}, queue="q", countdown=5, priority=3)
    (task,) = fake.assert_sent("note", (1, (2, day)), {"to": ("a", "b")}, queue="q")
    assert (task.args, task.kwargs) == ((1, [2, day]), {"to": ["a", "b"]})
    assert (task.expires, task.countdown, task.priority) == (3600, 5, 3)
    fake.assert_sent("note")
    fake.assert_sent("note", [1, ANY], {"to": ["a", ANY]})
    fake.assert_sent("note", (), times=0)
    fake.assert_sent("other", times=0)
    sent = r"sent were:\n  note\(1, \[2, .*\], to=\['a', 'b'\]\) to q$"
    for wrong, said in (
        (partial(fake.assert_sent, "note", (2,)), r"note\(2, \*\*…\) was sent 0 times, not 1"),
        (partial(fake.assert_sent, "note", kwargs={}), r"note\(…\) was sent 0 times"),
        (partial(fake.assert_sent, "note", queue="p"), r"note\(…, \*\*…\) to p was sent 0 times"),
        (partial(fake.assert_sent, "note", times=2), r"was sent 1 times, not 2"),
        (partial(fake.assert_sent, "note", times=0), r"was sent 1 times, not 0"),
    ):
        with pytest.raises(AssertionError, match=f"{said}.*; {sent}"):
            wrong()


async def test_what_is_changed_after_the_send_was_not_sent(fake: FakeCelery) -> None:
    basket = ["egg"]
    await fake.send_task("cook", (basket,), queue="q")
    basket.append("shell")
    fake.assert_sent("cook", (["egg"],))


async def test_what_cannot_be_serialised_is_not_sent(fake: FakeCelery) -> None:
    with pytest.raises(PayloadError, match="cannot be serialised"):
        await fake.send_task("add", (object(),), queue="q")
    assert fake.sent == []
    await fake.send_task("add", (complex(1, 2),), queue="q", serializer="pickle")
    fake.assert_sent("add", (complex(1, 2),))


async def test_one_id_is_one_task(fake: FakeCelery) -> None:
    handle = await fake.send_task("slow", queue="q", task_id="mine")
    fake.succeed("mine", 1)
    await fake.send_task("slow", queue="q", task_id="mine")
    fake.assert_sent("slow", times=2)
    with pytest.raises(ValueError, match="has ended already"):
        fake.succeed("mine", 2)
    assert await handle.result(timeout=1) == 1


async def test_a_chain_hands_on_its_results(adding: FakeCelery) -> None:
    handle = await adding.submit(chain(add(1, 2), add(10), add(5, 5, immutable=True), add(100)), result_type=int)
    assert await handle.result(timeout=1) == 110
    status = await adding.handle(handle.id).status()
    assert [child.result for child in status.children] == [3, 13, 10, 110]
    adding.assert_sent("add", (10,), queue="sums")
    assert [task.args for task in adding.sent] == [(1, 2), (10,), (5, 5), (100,)]


async def test_what_is_handed_on_comes_first(fake: FakeCelery) -> None:
    fake.register("join", lambda *words: " ".join(words))
    handle = await fake.submit(
        chain(APP.signature("join", args=("a", "b")), APP.signature("join", args=("c", "d")))
    )
    assert await handle.result(timeout=1) == "a b c d"


async def test_groups_and_chords(adding: FakeCelery) -> None:
    grouped = await adding.submit(group(add(n, n) for n in range(3)), result_type=int)
    assert await grouped.result(timeout=1) == [0, 2, 4]
    nested = chain(add(1), group(add(1), chain(add(2), add(3))), total(), add(1))
    handle = await adding.submit(chord([nested, add(4)], total()))
    assert await handle.result(timeout=1) == (1 + 1 + 1 + 2 + 3 + 1) + 4
    assert (await adding.handle(handle.id).status()).name == "chord"


async def test_a_workflow_stops_at_a_failure(adding: FakeCelery) -> None:
    def fail(_: int) -> None:
        raise ValueError("no")

    adding.register("fail", fail)
    handle = await adding.submit(chain(add(1, 2), APP.signature("fail", queue="q"), add(1)))
    with pytest.raises(TaskFailed) as caught:
        await handle.result(timeout=1)
    assert (caught.value.name, caught.value.message) == ("fail", "no")
    assert [child.state for child in (await handle.status()).children] == [
        TaskState.SUCCESS,
        TaskState.FAILURE,
        TaskState.QUEUED,
    ]


async def test_a_workflow_is_ended_step_by_step(fake: FakeCelery) -> None:
    fake.register("total", sum)
    handle = await fake.submit(chord([add(1, 1), add(2, 2)], total()))
    fake.succeed("add", 2)
    assert (await handle.status()).state is TaskState.STARTED
    fake.succeed("add", 4)
    assert await handle.result(timeout=1) == 6


async def test_what_is_started_by_hand_is_ended_by_hand(fake: FakeCelery) -> None:
    handle = await fake.submit(group(add(1, 1), add(2, 2)))
    fake.start("add")
    fake.register("add", lambda x, y: x + y)
    fake.succeed(fake.sent[1].id, 4)
    assert [child.state for child in (await handle.status()).children] == [TaskState.STARTED, TaskState.SUCCESS]
    fake.succeed("add", 2)
    assert await handle.result(timeout=1) == [2, 4]


async def test_a_forgotten_workflow_has_no_shape(adding: FakeCelery) -> None:
    handle = await adding.submit(group(add(1, 1), add(2, 2)))
    await handle.forget()
    assert (await adding.handle(handle.id).status()).children == ()


async def test_a_workflow_is_ended_as_a_whole(fake: FakeCelery) -> None:
    handle = await fake.submit(chain(add(1, 2), group(add(3), add(4)), total()))
    fake.succeed(handle.id, 42)
    assert await handle.result(timeout=1) == 42
    assert {(await fake.handle(task.id).status()).state for task in fake.sent} == {"SUCCESS"}
    grouped = await fake.submit(group(add(1, 2), chain(add(3, 4), add(5))))
    with pytest.raises(ValueError, match="group of 2"):
        fake.succeed(grouped.id, [1])
    fake.succeed(grouped.id, [1, 2])
    assert await grouped.result(timeout=1) == [1, 2]


async def test_a_workflow_fails_or_starts_at_its_first_open_task(fake: FakeCelery) -> None:
    handle = await fake.submit(chain(add(1, 2), total()))
    fake.start(handle.id)
    assert [child.state for child in (await handle.status()).children] == [TaskState.STARTED, TaskState.QUEUED]
    fake.fail(handle.id, ValueError("no"))
    with pytest.raises(TaskFailed, match="no") as caught:
        await handle.result(timeout=1)
    assert caught.value.name == "add"


async def test_a_workflow_is_cancelled(fake: FakeCelery) -> None:
    handle = await fake.submit(chain(add(1, 2), total()))
    assert await handle.cancel()
    assert (await handle.status()).state is TaskState.REVOKED


async def test_routes_come_from_the_app() -> None:
    app = Celery(broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_queues = [Queue("routed", Exchange("sums", type="topic"), routing_key="of numbers")]
    app.conf.task_routes = {"add": {"queue": "routed"}}
    fake = FakeCelery(app)
    await fake.submit(APP.signature("add", args=(1, 2)))
    fake.assert_sent("add", (1, 2), queue="routed")
