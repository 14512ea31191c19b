"""What an observer is told of results: each wait once, with its end; and what a default costs: nothing."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from celery import Celery, chain

from async_celery import OnTimeout, ResultTimeout, TaskFailed, TaskNotFound, TaskRevoked
from async_celery.errors import BackendError, Blocked, Nacked, PublishTimeout, Unroutable
from async_celery.observation import NOBODY, Observer, PublishOutcome, RevokeReason, WaitOutcome, guarded
from async_celery.testing import FakeCelery


class Witness(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.waiting = 0
        self.waits: Counter[tuple[str | None, WaitOutcome]] = Counter()
        self.lags: list[tuple[str | None, float]] = []
        self.revokes: list[tuple[str | None, RevokeReason]] = []
        self.seconds: list[float] = []

    def wait_began(self) -> None:
        self.waiting += 1

    def wait_ended(self, task: str | None, outcome: WaitOutcome, seconds: float) -> None:
        self.waiting -= 1
        self.waits[task, outcome] += 1
        self.seconds.append(seconds)

    def delivered(self, task: str | None, seconds: float) -> None:
        self.lags.append((task, seconds))

    def revoked(self, task: str | None, reason: RevokeReason) -> None:
        self.revokes.append((task, reason))


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
def fake(witness: Witness) -> FakeCelery:
    return FakeCelery(observer=witness)


async def test_each_end_of_a_wait(fake: FakeCelery, witness: Witness) -> None:
    fake.register("add", lambda x, y: x + y)
    fake.register("fail", lambda: 1 / 0)
    assert await (await fake.send_task("add", (1, 2), queue="q")).result(1) == 3
    with pytest.raises(TaskFailed):
        await (await fake.send_task("fail", queue="q")).result(1)
    with pytest.raises(ResultTimeout):
        await (await fake.send_task("slow", queue="q")).result(0.02)
    cancelled = await fake.send_task("cancelled", queue="q")
    await cancelled.cancel()
    with pytest.raises(TaskRevoked):
        await cancelled.result(1)
    with pytest.raises(TaskNotFound):
        await fake.handle("11111111-1111-4111-8111-111111111111").result(1)
    assert witness.waits == {
        ("add", WaitOutcome.SUCCESS): 1,
        ("fail", WaitOutcome.FAILURE): 1,
        ("slow", WaitOutcome.TIMEOUT): 1,
        ("cancelled", WaitOutcome.REVOKED): 1,
        (None, WaitOutcome.UNKNOWN): 1,
    }
    assert witness.seconds[2] >= 0.02
    assert witness.revokes == [("slow", RevokeReason.TIMEOUT), ("cancelled", RevokeReason.CANCEL)]
    assert [name for name, _ in witness.lags] == ["add", "fail", "cancelled"]
    assert all(0 <= lag < 1 for _, lag in witness.lags)
    assert witness.waiting == 0


async def test_who_waits_is_counted_until_they_leave(fake: FakeCelery, witness: Witness) -> None:
    handle = await fake.send_task("slow", queue="q")
    waits = [asyncio.ensure_future(handle.result(10)) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert witness.waiting == 3
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert witness.waiting == 0
    assert witness.waits == {("slow", WaitOutcome.ABANDONED): 3}


async def test_a_wait_that_leaves_its_task_alone_revokes_nothing(fake: FakeCelery, witness: Witness) -> None:
    handle = await fake.send_task("slow", queue="q")
    with pytest.raises(ResultTimeout):
        await handle.result(0.02, OnTimeout.KEEP)
    assert witness.revokes == []


async def test_a_workflow_goes_by_its_kind_and_an_id_by_what_is_stored(
    fake: FakeCelery, witness: Witness
) -> None:
    fake.register("add", lambda x, y: x + y)
    app = Celery(set_as_current=False)
    steps = chain(app.signature("add", args=(1, 2)), app.signature("add", args=(3,)))
    assert await (await fake.submit(steps)).result(1) == 6
    sent = await fake.send_task("add", (1, 2), queue="q")
    assert await fake.handle(sent.id).result(1) == 3
    assert witness.waits == {("chain", WaitOutcome.SUCCESS): 1, ("add", WaitOutcome.SUCCESS): 1}


async def test_a_result_from_long_ago_was_not_late(fake: FakeCelery, witness: Witness) -> None:
    fake.register("add", lambda x, y: x + y)
    handle = await fake.send_task("add", (1, 2), queue="q")
    await asyncio.sleep(0.3)
    assert await handle.result(1) == 3
    assert witness.lags[0][1] < 0.25


async def test_what_could_not_be_revoked_was_not(
    fake: FakeCelery, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(task_ids: Sequence[str], *, terminate: bool) -> bool:
        raise BackendError("no")

    monkeypatch.setattr(fake._backend, "bury", refuse)
    with pytest.raises(BackendError):
        await (await fake.send_task("slow", queue="q")).cancel()
    with pytest.raises(ResultTimeout) as raised:
        await (await fake.send_task("slow", queue="q")).result(0.02)
    assert not raised.value.revoked
    assert witness.revokes == []


class Broken(Observer):
    """Raises in every method."""

    def __getattribute__(self, name: str) -> Any:
        if name in METHODS:
            raise RuntimeError("the observer is broken")
        return super().__getattribute__(name)


METHODS = {name for name in vars(Observer) if not name.startswith("_")}


async def test_a_broken_observer_breaks_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeCelery(observer=Broken())
    fake.register("add", lambda x, y: x + y)
    assert await (await fake.send_task("add", (1, 2), queue="q")).result(1) == 3
    assert await (await fake.send_task("slow", queue="q")).cancel()
    with pytest.raises(ResultTimeout):
        await (await fake.send_task("slow", queue="q")).result(0.02)
    assert [(record.levelno, record.name) for record in caplog.records] == [
        (logging.ERROR, "async_celery.observation")
    ]


@pytest.mark.parametrize(
    "tell",
    [
        lambda one: one.published("add", "q", PublishOutcome.OK, 0.1, 7),
        lambda one: one.connected(again=True),
        lambda one: one.disconnected(),
        lambda one: one.revoked("add", RevokeReason.CANCEL),
        lambda one: one.wait_began(),
        lambda one: one.wait_ended("add", WaitOutcome.SUCCESS, 0.1),
        lambda one: one.delivered("add", 0.1),
        lambda one: one.polled(),
    ],
)
def test_each_method_is_passed_on_and_guarded(tell: Callable[[Observer], None]) -> None:
    told: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def remember(name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: told.append((name, args, kwargs))

    class Witness(Observer):
        def __getattribute__(self, name: str) -> Any:
            return remember(name) if name in METHODS else super().__getattribute__(name)

    tell(Witness())
    tell(guarded(Witness()))
    assert len(told) == 2
    assert told[0] == told[1]
    tell(guarded(Broken()))
    assert METHODS - set(vars(type(guarded(Broken())))) == set()


def test_nobody_needs_no_guard() -> None:
    assert guarded(NOBODY) is NOBODY


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Nacked(""), PublishOutcome.NACKED),
        (Unroutable(""), PublishOutcome.UNROUTABLE),
        (PublishTimeout(""), PublishOutcome.TIMEOUT),
        (asyncio.CancelledError(), PublishOutcome.TIMEOUT),
        (Blocked(""), PublishOutcome.ERROR),
        (ValueError(), PublishOutcome.ERROR),
    ],
)
def test_what_an_error_of_a_send_means(error: BaseException, outcome: PublishOutcome) -> None:
    assert PublishOutcome.of(error) is outcome
