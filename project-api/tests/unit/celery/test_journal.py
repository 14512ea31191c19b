"""The journal: what is noted is written in the background, and never gets in anybody's way."""

import asyncio
import logging
import time
from collections.abc import Mapping
from uuid import uuid4

import pytest

from app.celery import journal as module
from app.celery.journal import open_journal
from async_celery import ResultTimeout, TaskFailed, TaskState
from async_celery.testing import FakeCelery


class Client(FakeCelery):
    """Counts what is written, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Mapping[str, Mapping[str, float]]] = []
        self._written = asyncio.Semaphore(0)

    async def note_times(self, times: Mapping[str, Mapping[str, float]]) -> None:
        self.writes.append(times)
        self._written.release()
        await super().note_times(times)

    async def next_write(self) -> None:
        async with asyncio.timeout(5):
            await self._written.acquire()


async def test_what_is_noted_in_a_tenth_of_a_second_is_written_at_once() -> None:
    client = Client()
    async with open_journal(client) as journal:
        ids = [str(uuid4()) for _ in range(50)]
        begin = time.time()
        for task_id in ids:
            journal.sent(task_id, accepted=begin - 1)
        journal.delivered(ids[0])
        assert client.writes == []
        await client.next_write()
        assert time.time() - begin > 0.05
        (written,) = client.writes
        assert list(written) == ids
        assert written[ids[1]].keys() == {"accepted", "confirmed"}
        assert written[ids[0]]["accepted"] == begin - 1
        assert begin <= written[ids[0]]["confirmed"] <= written[ids[0]]["delivered"] <= time.time()
        journal.delivered(ids[1])
        await client.next_write()
        assert client.writes[1].keys() == {ids[1]}
    assert journal.dropped == 0


async def test_only_the_first_delivery_counts() -> None:
    client = Client()
    async with open_journal(client) as journal:
        journal.delivered("id")
        first = time.time()
        await asyncio.sleep(0.01)  # so that the clock moves on
        journal.delivered("id")
    assert client.writes[0]["id"]["delivered"] <= first


async def test_closing_writes_what_is_pending_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INTERVAL", 60)
    client = Client()
    begin = time.monotonic()
    async with open_journal(client) as journal:
        journal.delivered("id")
    assert client.writes
    assert time.monotonic() - begin < 5
    assert await client.handle("id").noted_times()


async def test_without_redis_it_is_dropped_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    async with open_journal(client) as journal:
        with client.backend_down(), caplog.at_level(logging.WARNING):
            for n in (1, 2, 3):
                journal.delivered(f"lost {n}")
                await client.next_write()
        assert journal.dropped == 3
        assert len(caplog.records) == 1
        journal.delivered("kept")
    assert await client.handle("kept").noted_times()
    assert not await client.handle("lost 1").noted_times()


async def test_too_much_at_a_time_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 10)
    client = Client()
    async with open_journal(client) as journal:
        for n in range(25):
            journal.delivered(str(n))
        journal.delivered("3")
        assert journal.dropped == 15
    assert list(client.writes[0]) == [str(n) for n in range(10)]


async def test_an_end_is_delivered_a_timeout_is_not() -> None:
    client = Client()
    async with open_journal(client) as journal:
        with journal.delivery("result"):
            pass
        with pytest.raises(TaskFailed), journal.delivery("failure"):
            raise TaskFailed(task_id="failure", name=None, type="ValueError", message="")
        with pytest.raises(ResultTimeout), journal.delivery("timeout"):
            raise ResultTimeout(task_id="timeout", state=TaskState.QUEUED, timeout=1, revoked=True)
    assert client.writes[0].keys() == {"result", "failure"}
