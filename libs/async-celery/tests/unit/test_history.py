"""The history, page by page, over a backend in memory."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_celery import AsyncCelery, BackendError, BadCursor, TaskState, Unsupported, history
from async_celery.history import HistoryFilter, HistoryPage, id_parts, read_page
from async_celery.testing import FakeCelery
from async_celery.threads import ThreadsBackend
from async_celery.types import HistoryRow

from .test_surface import KEY, celery_app

START = datetime(2030, 1, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)


class Stream:
    """Stands for Redis: some entries, and how often it was asked."""

    def __init__(self, rows: list[HistoryRow]) -> None:
        self.rows = rows
        self.counts: list[int] = []

    async def history(self, *, since: str | None, before: str | None, count: int) -> list[HistoryRow]:
        self.counts.append(count)
        assert before is None or id_parts(before) > (0, 0), "an error for Redis"
        rows = [
            row
            for row in reversed(self.rows)
            if (since is None or id_parts(row[0]) >= id_parts(since))
            and (before is None or id_parts(row[0]) < id_parts(before))
        ]
        return rows[:count]


def entry(n: int, milliseconds: int, state: str = "SUCCESS", **fields: str) -> HistoryRow:
    return f"{START_MS + milliseconds}-{n}", {"id": str(n), "name": "add", "state": state, **fields}


async def page_of(stream: Any, wanted: HistoryFilter | None = None, **options: Any) -> HistoryPage:
    return await read_page(stream, wanted or HistoryFilter(), **({"cursor": None, "limit": 10} | options))


async def all_of(stream: Any, wanted: HistoryFilter | None = None, *, limit: int) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await page_of(stream, wanted, cursor=cursor, limit=limit)
        found += [task.id for task in page.entries]
        if (cursor := page.cursor) is None:
            return found


async def test_an_entry_says_what_the_worker_wrote() -> None:
    fields = {
        "queue": "sums", "worker": "w@h", "attempts": "3", "error": "ValueError", "root_id": "r",
        "published": "1893456000.25", "received": "1893456001.5",
        "started": "1893456002.0", "finished": "1893456003.0",
    }  # fmt: skip
    page = await page_of(Stream([entry(7, 3500, "FAILURE", **fields)]))
    (task,) = page.entries
    assert (task.id, task.name, task.state, task.root_id) == ("7", "add", TaskState.FAILURE, "r")
    assert (task.queue, task.worker, task.attempts, task.error) == ("sums", "w@h", 3, "ValueError")
    times = (task.published_at, task.received_at, task.started_at, task.finished_at, task.stored_at)
    assert times == tuple(START + timedelta(seconds=s) for s in (0.25, 1.5, 2, 3, 3.5))
    assert page.cursor is None


async def test_what_the_worker_did_not_know_is_none() -> None:
    (task,) = (await page_of(Stream([entry(7, 0)]))).entries
    assert (task.queue, task.worker, task.attempts, task.error, task.root_id) == (None,) * 5
    assert (task.published_at, task.received_at, task.started_at, task.finished_at) == (None,) * 4


async def test_a_time_beyond_the_calendar_is_none() -> None:
    """A producer may have stamped ms."""
    (task,) = (await page_of(Stream([entry(7, 0, published="1777900029123")]))).entries
    assert task.published_at is None


@given(
    milliseconds=st.lists(st.integers(0, 20), max_size=30).map(sorted),
    since=st.none() | st.integers(-5, 25),
    until=st.none() | st.integers(-5, 25),
    limit=st.integers(1, 12),
    states=st.data(),
)
async def test_pages_are_the_newest_first_and_lose_nothing(
    milliseconds: list[int], since: int | None, until: int | None, limit: int, states: st.DataObject
) -> None:
    rows = [
        entry(n, ms, states.draw(st.sampled_from(["SUCCESS", "FAILURE"]))) for n, ms in enumerate(milliseconds)
    ]
    for state in (None, TaskState.FAILURE):
        wanted = HistoryFilter(
            state=state,
            since=None if since is None else START + timedelta(milliseconds=since),
            until=None if until is None else START + timedelta(milliseconds=until),
        )
        expected = [
            fields["id"]
            for (_, fields), ms in zip(rows, milliseconds, strict=True)
            if (since is None or ms >= since)
            and (until is None or ms < until)
            and state in (None, fields["state"])
        ]
        assert await all_of(Stream(rows), wanted, limit=limit) == expected[::-1]


async def test_a_page_looks_at_so_many_entries_and_says_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_SCANNED", 30)
    monkeypatch.setattr(history, "_CHUNK", 10)
    stream = Stream([entry(n, n, name="rare" if n == 5 else "add") for n in range(50)])
    first = await page_of(stream, HistoryFilter(name="rare"))
    assert (first.entries, first.cursor) == ((), stream.rows[20][0])
    assert stream.counts == [10, 10, 10]
    second = await page_of(stream, HistoryFilter(name="rare"), cursor=first.cursor)
    assert [task.id for task in second.entries] == ["5"]
    assert second.cursor is None


async def test_without_a_filter_no_more_is_read_than_is_shown() -> None:
    stream = Stream([entry(n, n) for n in range(5)])
    assert (await page_of(stream, limit=4)).cursor == stream.rows[1][0]
    assert (await page_of(stream, limit=5)).cursor is None
    assert stream.counts == [5, 6]


@pytest.mark.parametrize("wanted", [HistoryFilter(until=datetime.min.replace(tzinfo=UTC)), HistoryFilter()])
async def test_before_the_first_entry_there_is_nothing(wanted: HistoryFilter) -> None:
    page = await page_of(Stream([entry(1, 1)]), wanted, cursor="0-0")
    assert (page.entries, page.cursor) == ((), None)


@pytest.mark.parametrize("cursor", ["", "1", "1-", "-1", "(1-1", "1-1\n", "+", "1" * 20 + "-0", "١-١"])
async def test_what_no_page_has_named_is_no_cursor(cursor: str) -> None:
    with pytest.raises(BadCursor, match="use the one that the page before has named"):
        await page_of(Stream([]), cursor=cursor)


async def test_the_fake_keeps_a_history_and_notes() -> None:
    async with FakeCelery() as fake:
        fake.register("add", lambda x, y: x + y)
        done = await fake.send_task("add", (1, 2), queue="sums")
        failed = await fake.send_task("report", queue="slow")
        await fake.send_task("still-queued", queue="slow")
        fake.fail("report", ValueError("no data"))
        page = await fake.history()
        assert [(task.id, task.state, task.error) for task in page.entries] == [
            (failed.id, TaskState.FAILURE, "ValueError"),
            (done.id, TaskState.SUCCESS, None),
        ]
        assert [task.queue for task in (await fake.history(name="add", limit=1)).entries] == ["sums"]
        assert (await fake.history(cursor="0-0")).entries == ()

        times: Mapping[str, Mapping[str, float]] = {done.id: {"confirmed": 2.0}}
        await fake.note_times(times)
        await fake.note_times({done.id: {"confirmed": 3.0, "delivered": 4.0}})
        assert await done.noted_times() == {"confirmed": 2.0, "delivered": 4.0}
        assert await failed.noted_times() == {}
        with fake.backend_down(), pytest.raises(BackendError):
            await fake.history()


async def test_other_backends_keep_none() -> None:
    backend = ThreadsBackend(celery_app(result_backend="cache+memory://"), backend_timeout=1, max_threads=1)
    async with AsyncCelery(celery_app(result_backend="cache+memory://"), task_id_key=KEY) as client:
        with pytest.raises(Unsupported, match="set result_backend to a redis:// URL"):
            await client.history()
        with pytest.raises(Unsupported, match="set result_backend to a redis:// URL"):
            await client.note_times({"id": {"confirmed": 1.0}})
    assert await backend.noted("id") == {}
    await backend.aclose()
