"""The history and the notes in a real Redis: keys, order, bounds, how long they live."""

from uuid import uuid4

import pytest
import redis

from async_celery import BackendError, TaskState
from async_celery.history import HistoryFilter, read_page
from async_celery.types import HistoryRow

from .conftest import ResultsFactory
from .redis_server import RedisServer


@pytest.fixture
def stream(redis_server: RedisServer) -> "redis.Redis":
    return redis.Redis.from_url(redis_server.url())


async def test_entries_come_newest_first_within_their_bounds(
    make_results: ResultsFactory, stream: "redis.Redis"
) -> None:
    results = make_results()
    assert await results.history(since=None, before=None, count=10) == []
    with stream:
        for id_ in ("5-0", "5-1", "7-0"):
            stream.xadd("task-history", {"id": id_, "state": "SUCCESS", "name": b"\xff"}, id=id_)

    async def ids(since: str | None, before: str | None, count: int = 10) -> list[str]:
        rows: list[HistoryRow] = await results.history(since=since, before=before, count=count)
        assert all(fields["id"] == id_ for id_, fields in rows)
        return [id_ for id_, _ in rows]

    assert await ids(None, None) == ["7-0", "5-1", "5-0"]
    assert await ids(None, None, 2) == ["7-0", "5-1"]
    assert await ids(None, "7-0") == ["5-1", "5-0"]
    assert await ids("5-1", None) == ["7-0", "5-1"]
    assert await ids("6-0", "7-0") == []
    assert await ids("9-0", "7-0") == []
    page = await read_page(results, HistoryFilter(state=TaskState.SUCCESS), cursor="0-0", limit=5)
    assert page.entries == ()


async def test_notes_stay_as_they_were_first_and_go_with_the_results(
    make_results: ResultsFactory, stream: "redis.Redis"
) -> None:
    results, for_ever = make_results(result_expires=100), make_results(result_expires=None)
    task_id, other = str(uuid4()), str(uuid4())
    assert await results.noted(task_id) == {}
    await results.note({task_id: {"accepted": 1893456000.123456, "confirmed": 2.0}, other: {"accepted": 3.0}})
    await results.note({task_id: {"confirmed": 9.0, "delivered": 4.5}})
    assert await results.noted(task_id) == {"accepted": 1893456000.123456, "confirmed": 2.0, "delivered": 4.5}
    assert await results.noted(other) == {"accepted": 3.0}
    with stream:
        assert all(0 < stream.ttl(f"task-times:{id_}") <= 100 for id_ in (task_id, other))
        await for_ever.note({task_id: {}, (kept := str(uuid4())): {"accepted": 1.0}})
        assert stream.ttl(f"task-times:{kept}") == -1


async def test_without_redis_it_is_an_error(make_results: ResultsFactory, redis_server: RedisServer) -> None:
    results = make_results(timeout=0.5)
    redis_server.close()
    with pytest.raises(BackendError):
        await results.history(since=None, before=None, count=1)
    with pytest.raises(BackendError):
        await results.note({"id": {"accepted": 1.0}})
    with pytest.raises(BackendError):
        await results.noted("id")
