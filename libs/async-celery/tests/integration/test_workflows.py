"""Every shape of canvas against a real worker: results, failures, cancellation, and whose ids are used."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import redis
from celery import Celery, chain, chord, group
from celery.canvas import Signature, chunks
from celery.result import result_from_tuple

from async_celery import (
    AsyncCelery,
    PayloadError,
    ResultTimeout,
    TaskExpired,
    TaskFailed,
    TaskRevoked,
    TaskState,
    TaskStatus,
)

from .conftest import KEY, CeleryFactory, Eventually, Gate, Notes

Sig = Callable[..., "Signature[Any]"]

# Freezes and restores without a server.
OFFLINE = Celery(backend="cache+memory://", set_as_current=False)

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def sig(celery_app: Celery) -> Sig:
    """Return a function that makes a signature bound to the app, sent by name."""

    def make(name: str, *args: Any, **kwargs: Any) -> "Signature[Any]":
        return celery_app.signature(name, args=args, kwargs=kwargs)

    return make


def leaves(status: TaskStatus) -> Iterator[TaskStatus]:
    if not status.children:
        yield status
    for child in status.children:
        yield from leaves(child)


def steps(*tasks: Any) -> "Signature[Any]":
    """Return a chain of these steps as they are, like `chain([…], app=…)`; `chain(a, b)` folds them by `|`."""
    as_one_list: Any = list(tasks)
    return chain(as_one_list, app=OFFLINE)


# name: (canvas, its result, its outermost kind, its tasks in their order)
SHAPES: dict[str, tuple[Callable[[Sig], "Signature[Any]"], Any, str, list[str]]] = {
    "single": (lambda s: s("add", 1, 2), 3, "add", ["add"]),
    "chain": (lambda s: chain(s("add", 1, 2), s("add", 3), s("add", 4)), 10, "chain", ["add"] * 3),
    "chain of one": (lambda s: steps(s("add", 1, 2)), 3, "add", ["add"]),
    "chain in chain": (
        lambda s: steps(chain(s("add", 1, 2), s("add", 3)), s("add", 4)),
        10,
        "chain",
        ["add"] * 3,
    ),
    "group": (lambda s: group(s("add", i, i) for i in range(3)), [0, 2, 4], "group", ["add"] * 3),
    "group of one": (lambda s: group([s("add", 1, 1)]), [2], "group", ["add"]),
    "group in group": (
        lambda s: group([group(s("add", 1, 1), s("add", 2, 2)), s("add", 3, 3)]),
        [2, 4, 6],
        "group",
        ["add"] * 3,
    ),
    "chord": (
        lambda s: chord([s("add", i, i) for i in range(3)], s("total")),
        6,
        "chord",
        ["add", "add", "add", "total"],
    ),
    "chord of one": (lambda s: chord([s("add", 1, 1)], s("total")), 2, "chord", ["add", "total"]),
    "chord with chain in header": (
        lambda s: chord([chain(s("add", 1, 1), s("add", 1)), s("add", 2, 2)], s("total")),
        7,
        "chord",
        ["add", "add", "add", "total"],
    ),
    "chord in chord": (
        lambda s: chord([chord([s("add", 1, 1), s("add", 2, 2)], s("total")), s("add", 3, 3)], s("total")),
        12,
        "chord",
        ["add", "add", "total", "add", "total"],
    ),
    "chord with group as body": (
        lambda s: chord([s("add", 1, 1), s("add", 2, 2)], group(s("total"), s("total"))),
        [6, 6],
        "chord",
        ["add", "add", "total", "total"],
    ),
    "group in header of chord": (
        lambda s: chord([group(s("add", 1, 1), s("add", 2, 2)), s("add", 3, 3)], s("total")),
        12,
        "chord",
        ["add", "add", "add", "total"],
    ),
    "chord, then chain": (
        lambda s: chord([s("add", 1, 1), s("add", 2, 2)], s("total")) | s("add", 1) | s("add", 2),
        9,
        "chord",
        ["add", "add", "total", "add", "add"],
    ),
    "chord in chain": (
        lambda s: steps(s("add", 1, 1), chord([s("add", 1), s("add", 2)], s("total")), s("add", 3)),
        10,
        "chain",
        ["add", "add", "add", "total", "add"],
    ),
    "task, then group": (
        lambda s: chain(s("add", 1, 1), group(s("add", 1), s("add", 2))),
        [3, 4],
        "chain",
        ["add"] * 3,
    ),
    "task, then group of one": (
        lambda s: steps(s("add", 1, 1), group([s("add", 1)])),
        [3],
        "chain",
        ["add"] * 2,
    ),
    "group, then task": (
        lambda s: steps(group(s("add", 1, 1), s("add", 2, 2)), s("total")),
        6,
        "chord",
        ["add", "add", "total"],
    ),
    "group of one, then task": (
        lambda s: steps(group([s("add", 1, 1)]), s("total")),
        2,
        "chord",
        ["add", "total"],
    ),
    "task, group, task": (
        lambda s: chain(s("add", 1, 1), group(s("add", 1), s("add", 2)), s("total")),
        7,
        "chain",
        ["add", "add", "add", "total"],
    ),
    "group, then group": (
        lambda s: steps(group(s("add", 1, 1), s("add", 2, 2)), group(s("total"), s("total"))),
        [6, 6],
        "chord",
        ["add", "add", "total", "total"],
    ),
    "group, group, task": (
        lambda s: steps(group(s("add", 1, 1), s("add", 2, 2)), group(s("total"), s("total")), s("total")),
        12,
        "chord",
        ["add", "add", "total", "total", "total"],
    ),
    "chain in group": (
        lambda s: group(chain(s("add", 1, 1), s("add", 2)), s("add", 5, 5)),
        [4, 10],
        "group",
        ["add"] * 3,
    ),
    "chain that ends in a group, in group": (
        lambda s: group([chain(s("add", 1, 1), group(s("add", 1), s("add", 2))), s("add", 5, 5)]),
        [[3, 4], 10],
        "group",
        ["add"] * 4,
    ),
    "chord in group": (
        lambda s: group(chord([s("add", 1, 1), s("add", 2, 2)], s("total")), s("add", 5, 5)),
        [6, 10],
        "group",
        ["add", "add", "total", "add"],
    ),
    "chunks": (
        lambda s: chunks(cast("Any", s("add")), [(1, 1), (2, 2), (3, 3)], 2, app=OFFLINE),
        [[2, 4], [6]],
        "group",
        ["celery.starmap"] * 2,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_result_and_status_of_every_shape(
    client: AsyncCelery, sig: Sig, eventually: Eventually, shape: str
) -> None:
    build, expected, kind, names = SHAPES[shape]
    handle = await client.submit(build(sig))
    assert await handle.result(timeout=10) == expected
    # What another process sees, by the id alone.
    other = client.handle(handle.id)
    assert await other.result(timeout=10) == expected
    status = await other.status()
    assert (status.id, status.name, status.state, status.result) == (handle.id, kind, TaskState.SUCCESS, expected)
    assert status.accepted_at is not None
    assert status.finished_at is not None
    tasks = list(leaves(status))
    assert [task.name for task in tasks] == names
    assert len({task.id for task in tasks}) == len(tasks)

    # The worker stores a result under each id that we had given: they are the ids that Celery used. It publishes
    # the next step before it stores this one's result, so the last step's may be there first.
    async def all_stored() -> bool:
        return {task.state for task in leaves(await other.status())} == {TaskState.SUCCESS}

    await eventually(all_stored)
    assert await other.cancel() is False


FAILING: dict[str, Callable[[Sig], "Signature[Any]"]] = {
    "single": lambda s: s("fail"),
    "first of chain": lambda s: chain(s("fail"), s("add", 1), s("add", 1)),
    "middle of chain": lambda s: chain(s("add", 1, 1), s("fail"), s("add", 1)),
    "last of chain": lambda s: chain(s("add", 1, 1), s("fail")),
    "chain of one": lambda s: steps(s("fail")),
    "member of group": lambda s: group(s("add", 1, 1), s("fail"), s("add", 1, 1)),
    "group of one": lambda s: group([s("fail")]),
    "header of chord": lambda s: chord([s("add", 1, 1), s("fail")], s("total")),
    "header of chord of one": lambda s: chord([s("fail")], s("total")),
    "body of chord": lambda s: chord([s("add", 1, 1), s("add", 1, 1)], s("fail")),
    "after chord": lambda s: chord([s("add", 1, 1), s("add", 1, 1)], s("total")) | s("fail") | s("add", 1),
    "group in chain": lambda s: chain(s("add", 1, 1), group(s("add", 1), s("fail")), s("total")),
    "before group in chain": lambda s: chain(s("fail"), group(s("add", 1), s("add", 1)), s("total")),
    "chain in group": lambda s: group(chain(s("fail"), s("add", 1)), s("add", 1, 1)),
    "chain in header of chord": lambda s: chord([chain(s("fail"), s("add", 1)), s("add", 1, 1)], s("total")),
    "chord in chord": lambda s: chord([chord([s("fail")], s("total")), s("add", 1, 1)], s("total")),
}


@pytest.mark.parametrize("shape", FAILING)
async def test_a_failing_member_is_named(client: AsyncCelery, sig: Sig, shape: str) -> None:
    handle = await client.submit(FAILING[shape](sig))
    with pytest.raises(TaskFailed) as caught:
        await handle.result(timeout=10)
    assert (caught.value.name, caught.value.type, caught.value.message) == ("fail", "ValueError", "boom")
    status = await handle.status()
    assert status.state is TaskState.FAILURE
    assert status.result is None
    assert status.error is not None
    assert status.error.message == "boom"
    failed = [task for task in leaves(status) if task.name == "fail"]
    assert [task.id for task in failed] == [caught.value.task_id]
    assert failed[0].state is TaskState.FAILURE


async def test_a_failure_ends_the_wait_while_others_still_run(
    client: AsyncCelery, sig: Sig, gate: Gate, eventually: Eventually
) -> None:
    handle = await client.submit(group(sig("hold", gate.path), sig("fail")))
    with pytest.raises(TaskFailed):
        await handle.result(timeout=10)
    assert await handle.cancel() is True  # what was still running

    async def all_ended() -> bool:
        states = [task.state for task in leaves(await handle.status())]
        return states == [TaskState.REVOKED, TaskState.FAILURE]

    await eventually(all_ended)


async def test_result_type_is_applied_to_each_member_of_a_group(client: AsyncCelery, sig: Sig) -> None:
    handle = await client.submit(group(sig("add", 1, 1), sig("add", 2, 2)), result_type=float)
    result = await handle.result(timeout=10)
    assert result == [2.0, 4.0]
    assert {type(value) for value in result} == {float}
    chained = await client.submit(chain(sig("add", 1, 1), sig("add", 2)), result_type=str)
    assert await chained.result(timeout=10) == "4"


async def test_honest_states_on_the_way(
    client: AsyncCelery, sig: Sig, make_gate: Callable[[], Gate], eventually: Eventually
) -> None:
    first, second, own = make_gate(), make_gate(), make_gate()
    for gate in (first, second):
        await client.submit(sig("hold", gate.path))
    handle = await client.submit(chord([sig("hold", own.path), sig("hold", own.path)], sig("total")))

    async def states() -> list[TaskState]:
        status = await handle.status()
        return [status.state, *(child.state for child in status.children)]

    assert await states() == [TaskState.QUEUED] * 4
    first.open()

    async def one_runs() -> bool:
        return await states() == [TaskState.STARTED, TaskState.STARTED, TaskState.QUEUED, TaskState.QUEUED]

    await eventually(one_runs)
    second.open()
    own.open()
    # The body cannot add what the header returns: texts.
    with pytest.raises(TaskFailed, match="unsupported operand"):
        await handle.result(timeout=10)
    assert await states() == [TaskState.FAILURE, TaskState.SUCCESS, TaskState.SUCCESS, TaskState.FAILURE]


async def test_cancel_reaches_every_child(
    client: AsyncCelery, sig: Sig, gate: Gate, notes: Notes, queue: str, eventually: Eventually
) -> None:
    members = [
        sig("hold", gate.path),
        sig("hold", gate.path),
        sig("note", notes.path, "a"),
        sig("note", notes.path, "b"),
    ]
    handle = await client.submit(chord(members, sig("note", notes.path).set(immutable=True)))

    async def two_run() -> bool:
        return [child.state for child in (await handle.status()).children].count(TaskState.STARTED) == 2

    await eventually(two_run)
    assert await handle.cancel() is True
    assert (await handle.status()).state is TaskState.REVOKED

    async def all_ended() -> bool:
        return all(task.state.is_final for task in leaves(await handle.status()))

    await eventually(all_ended)
    gate.open()
    last = await client.send_task("note", (notes.path, "last"), queue=queue)
    await last.result(timeout=10)
    assert notes.read() == ["last"]
    assert gate.log() == ["started", "started"]
    assert (await handle.status()).state is TaskState.REVOKED
    with pytest.raises(TaskRevoked):
        await handle.result(timeout=1)


async def test_a_timeout_revokes_the_whole_workflow(
    client: AsyncCelery, sig: Sig, gate: Gate, notes: Notes, queue: str, eventually: Eventually
) -> None:
    handle = await client.submit(
        chain(sig("hold", gate.path), sig("note", notes.path, "next").set(immutable=True))
    )
    with pytest.raises(ResultTimeout) as caught:
        await handle.result(timeout=0.5)
    assert caught.value.revoked

    async def all_ended() -> bool:
        return all(task.state.is_final for task in leaves(await handle.status()))

    await eventually(all_ended)
    gate.open()
    last = await client.send_task("note", (notes.path, "last"), queue=queue)
    await last.result(timeout=10)
    assert notes.read() == ["last"]


async def test_a_canvas_may_be_sent_twice_and_a_signature_used_twice(client: AsyncCelery, sig: Sig) -> None:
    add = sig("add", 1, 1)
    canvas = chord([add, add], sig("total"))
    written = repr(dict(canvas))
    handles = [await client.submit(canvas) for _ in range(2)]
    assert [await handle.result(timeout=10) for handle in handles] == [4, 4]
    ids = [task.id for handle in handles for task in leaves(await handle.status())]
    assert len(set(ids)) == 6
    assert repr(dict(canvas)) == written


async def test_ids_left_by_an_earlier_freeze_are_replaced(client: AsyncCelery) -> None:
    add = OFFLINE.signature("add", args=(1, 1))
    canvas = chord([add, add.clone()], OFFLINE.signature("total"))
    old = canvas.freeze().id
    handle = await client.submit(canvas)
    assert await handle.result(timeout=10) == 4
    assert old not in {task.id for task in leaves(await handle.status())}


async def test_a_signature_of_another_app_goes_where_this_client_sends(client: AsyncCelery) -> None:
    elsewhere = Celery(broker="amqp://127.0.0.1:9/nowhere", backend="redis://127.0.0.1:9", set_as_current=False)
    total = elsewhere.signature("total")
    foreign = chord([elsewhere.signature("add", args=(1, 1)), elsewhere.signature("add", args=(2, 2))], total)
    handle = await client.submit(foreign | elsewhere.signature("add", args=(1,)))
    assert await handle.result(timeout=10) == 7
    # Without an app, a signature belongs to the current one of the thread that publishes it.
    unbound = await client.submit(chain(Signature("add", args=(1, 1)), Signature("add", args=(1,))))
    assert await unbound.result(timeout=10) == 3


async def test_the_deadline_reaches_every_task(client: AsyncCelery, sig: Sig) -> None:
    echo = sig("echo_headers").set(immutable=True)
    handle = await client.submit(group(echo, chain(echo, echo), chord([echo], echo)), expires=60)
    seen = await handle.result(timeout=10)
    deadlines = {datetime.fromisoformat(headers["expires"]) for headers in seen}
    assert len(deadlines) == 1
    assert timedelta(seconds=45) < deadlines.pop() - datetime.now(UTC) <= timedelta(seconds=60)


async def test_a_workflow_past_its_deadline_is_expired(
    make_celery: CeleryFactory, spare_queue: str, eventually: Eventually
) -> None:
    app = make_celery(task_default_queue=spare_queue)
    async with AsyncCelery(app, task_id_key=KEY, task_deadline=0.5) as client:
        handle = await client.submit(group(app.signature("add", args=(1, 1)), app.signature("add", args=(1, 1))))
        assert (await handle.status()).state is TaskState.QUEUED

        async def is_expired() -> bool:
            try:
                await handle.status()
            except TaskExpired:
                return True
            return False

        await eventually(is_expired)


async def test_the_record_lives_as_long_as_results_and_can_be_forgotten(
    client: AsyncCelery, celery_app: Celery, sig: Sig, redis_client: redis.Redis
) -> None:
    handle = await client.submit(group(sig("add", 1, 1), sig("add", 2, 2)))
    await handle.result(timeout=10)
    # Those of the last task that may start before its deadline.
    seconds = celery_app.conf.result_expires.total_seconds() + 3600
    assert seconds - 60 < redis_client.ttl(f"task-record:{handle.id}") <= seconds
    keys = [f"celery-task-meta-{task.id}" for task in leaves(await handle.status())]
    assert redis_client.exists(*keys) == 2
    await client.handle(handle.id).forget()
    assert redis_client.exists(f"task-record:{handle.id}", *keys) == 0


async def test_celerys_own_clients_find_the_group(
    client: AsyncCelery, sig: Sig, redis_client: redis.Redis
) -> None:
    handle = await client.submit(group(sig("add", 1, 1), chain(sig("add", 1, 1), group(sig("add", 1)))))
    stored: Any = redis_client.get(f"celery-taskset-meta-{handle.id}")
    # What `GroupResult.restore` makes of it, less its connections.
    restored: Any = result_from_tuple(json.loads(stored)["result"], app=OFFLINE)
    first, second = (await handle.status()).children
    assert (restored.id, [member.id for member in restored]) == (handle.id, [first.id, second.id])


async def test_nothing_to_run_is_refused(client: AsyncCelery, sig: Sig) -> None:
    body = sig("total")
    for nothing in (group([]), steps(), chord([], body), chord([sig("add", 1, 1)])):
        with pytest.raises(PayloadError, match=r"nothing|no result"):
            await client.submit(nothing)
    with pytest.raises(PayloadError, match="no canvas"):
        await client.submit({"name": "add"})  # type: ignore[call-overload]
    with pytest.raises(PayloadError, match="cannot be serialised"):
        await client.submit(group(sig("add", object(), 1), sig("add", 1, 1)))


async def test_a_chain_of_a_hundred(client: AsyncCelery, sig: Sig) -> None:
    handle = await client.submit(chain(sig("add", 1, 1), *(sig("add", 1) for _ in range(99))))
    assert await handle.result(timeout=30) == 101


async def test_a_chord_of_hundreds(client: AsyncCelery, sig: Sig) -> None:
    handle = await client.submit(chord([sig("add", n, n) for n in range(300)], sig("total")))
    assert await handle.result(timeout=30) == 300 * 299


async def test_no_channel_is_subscribed(
    client: AsyncCelery, sig: Sig, queue: str, redis_client: redis.Redis
) -> None:
    single = await client.send_task("add", (1, 1), queue=queue)
    several = await client.submit(group(sig("add", 1, 1), chord([sig("add", 1, 1)], sig("total"))))
    ours = {f"celery-task-meta-{task.id}".encode() for task in leaves(await several.status())}
    ours.add(f"celery-task-meta-{single.id}".encode())
    # Other clients of the same Redis may subscribe to theirs.
    assert not ours & set(redis_client.pubsub_channels("celery-task-meta-*"))
    await asyncio.gather(single.result(timeout=10), several.result(timeout=10))
