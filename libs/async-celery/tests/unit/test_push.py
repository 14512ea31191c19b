"""Who wants which result, against a Redis that is not there: what only an odd order of events shows."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest

from async_celery.errors import BackendError, TransportError
from async_celery.push import Push
from async_celery.resp import Address, Command, Commands
from async_celery.task_ids import TaskIds

PREFIX = b"celery-task-meta-"


async def no_credentials() -> tuple[str, ...]:
    return ()


class Reads:
    """Takes the place of `Commands`: answers an MGET when told to."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[Command, asyncio.Future[list[Any]]]] = asyncio.Queue()

    async def __call__(self, command: Command) -> list[Any]:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((command, answer))
        return await answer


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
async def push(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Push]:
    monkeypatch.setattr("async_celery.push._POLL_INTERVAL", 0.01)
    nowhere = Address(
        host="", port=0, path="/nowhere", db=0, client_name=None, credentials=no_credentials, tls=None
    )
    push = Push(
        nowhere,
        cast("Commands", reads),
        ids=TaskIds(b"0" * 16),
        key_prefix=PREFIX,
        timeout=1,
        health_check_interval=1,
        max_result_bytes=1000,
    )
    yield push
    await push.aclose()


def stored(status: str) -> bytes:
    return json.dumps({"status": status, "result": None}).encode()


async def test_what_was_read_before_it_was_pushed_does_not_replace_it(push: Push, reads: Reads) -> None:
    async with asyncio.timeout(5), aclosing(push.follow(["a", "b"], None)) as batches:
        first = asyncio.ensure_future(anext(batches))
        command, answer = await reads.asked.get()
        assert command == (b"MGET", PREFIX + b"a", PREFIX + b"b")
        push._on_message(PREFIX + b"a", stored("SUCCESS"))
        answer.set_result([[stored("STARTED"), stored("RETRY")]])
        seen = dict(await first)
        while len(seen) < 2:
            seen.update(await anext(batches))
        assert {task_id: meta["status"] for task_id, meta in seen.items()} == {"a": "SUCCESS", "b": "RETRY"}
        # What has ended is not asked for again.
        command, _ = await reads.asked.get()
        assert command == (b"MGET", PREFIX + b"b")


async def test_what_is_read_again_unchanged_is_no_news(push: Push, reads: Reads) -> None:
    async with asyncio.timeout(5), aclosing(push.follow(["a"], None)) as batches:
        first = asyncio.ensure_future(anext(batches))
        for _ in range(3):
            _, answer = await reads.asked.get()
            answer.set_result([[stored("STARTED")]])
        assert len(await first) == 1
        second = asyncio.ensure_future(anext(batches))
        _, answer = await reads.asked.get()
        answer.set_result([[stored("STARTED")]])
        _, answer = await reads.asked.get()
        assert not second.done()
        answer.set_result([[stored("RETRY")]])
        ((_, meta),) = await second
        assert meta["status"] == "RETRY"


async def test_what_takes_too_long_together_is_read_in_smaller_portions(push: Push, reads: Reads) -> None:
    async with asyncio.timeout(5), aclosing(push.follow(map(str, range(1200)), None)) as batches:
        first = asyncio.ensure_future(anext(batches))
        sizes = []
        for _ in range(3):
            command, answer = await reads.asked.get()
            sizes.append(len(command) - 1)
            answer.set_exception(BackendError("too slow"))
        command, answer = await reads.asked.get()
        sizes.append(len(command) - 1)
        answer.set_result([[stored("SUCCESS")]])
        command, answer = await reads.asked.get()
        sizes.append(len(command) - 1)
        assert sizes == [1000, 100, 10, 1, 1000]
        assert len(await first) == 1


async def test_an_answer_for_who_has_gone_is_dropped(push: Push, reads: Reads) -> None:
    async with asyncio.timeout(5):
        async with aclosing(push.follow(["a"], None)) as batches:
            first = asyncio.ensure_future(anext(batches))
            _, answer = await reads.asked.get()
            first.cancel()
            await asyncio.wait({first})
        async with aclosing(push.follow(["b"], None)) as batches:
            second = asyncio.ensure_future(anext(batches))
            answer.set_result([[stored("SUCCESS")]])
            command, answer = await reads.asked.get()
            assert command == (b"MGET", PREFIX + b"b")
            answer.set_result([[stored("SUCCESS")]])
            assert (await second)[0][0] == "b"


async def test_nothing_that_is_pushed_breaks_the_connection(push: Push) -> None:
    for channel in (PREFIX + b"\xff", PREFIX, b"", b"something else"):
        push._on_message(channel, b"\x80")


async def test_an_ending_is_the_first_result_that_is_final(push: Push) -> None:
    ending = asyncio.ensure_future(push.ending("a", None, within=5))
    for status in ("STARTED", "RETRY", "SUCCESS", "FAILURE"):
        await asyncio.sleep(0)
        push._on_message(PREFIX + b"a", stored(status))
    meta = await ending
    assert meta is not None
    assert meta["status"] == "SUCCESS"
    assert not push._followed


@pytest.mark.parametrize("heard", [None, "STARTED", "SUCCESS"])
async def test_the_time_is_up_while_something_else_is_heard(push: Push, heard: str | None) -> None:
    ending = asyncio.ensure_future(push.ending("a", None, within=5))
    await asyncio.sleep(0)
    (waiter,) = push._followed["a"].followers
    if heard is not None:
        push._on_message(PREFIX + b"a", stored(heard))
    waiter.give_up()  # type: ignore[union-attr]  # it is one
    async with asyncio.timeout(1):
        meta = await ending
    assert (None if meta is None else meta["status"]) == ("SUCCESS" if heard == "SUCCESS" else None)
    assert not push._followed


async def test_who_waits_for_an_ending_hears_of_the_close(push: Push) -> None:
    ending = asyncio.ensure_future(push.ending("a", None, within=None))
    await asyncio.sleep(0)
    await push.aclose()
    with pytest.raises(TransportError):
        await ending
