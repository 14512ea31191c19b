"""What is old is deleted, and nothing else."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import database
import pytest
from processes import wait_until

from app.core.config import Settings
from app.database.housekeeping import BATCH, open_housekeeping, tidy
from project_database.sessions import open_database


async def tidied(task_life: timedelta = timedelta(hours=1)) -> dict[str, int]:
    async with open_database(database.url(), application_name="tests", timeout=2, lock_timeout=0.2) as opened:
        return dict(await tidy(opened, task_life))


async def kept(statement: str) -> list[Any]:
    return [row[0] for row in await database.fetch(statement)]


async def test_old_entries_of_inbox_and_idempotency_keys(clean_tables: None) -> None:
    for age in ("6 days 23 hours", "7 days 1 hour"):
        await database.fetch("INSERT INTO inbox VALUES (gen_random_uuid(), now() - $1::text::interval)", age)
    for key, age in (("new", "23 hours"), ("old", "25 hours")):
        await database.fetch(
            "INSERT INTO idempotency_keys (key, fingerprint, status, headers, body, created_at) "
            "VALUES ($1, '', 201, '{}', '', now() - $2::text::interval)",
            key,
            age,
        )
    assert await tidied() == {"inbox": 1, "idempotency_keys": 1}
    assert await kept("SELECT extract(day FROM now() - created_at)::int FROM inbox") == [6]
    assert await kept("SELECT key FROM idempotency_keys") == ["new"]


async def test_many(clean_tables: None) -> None:
    count = 2 * BATCH + 1
    await database.fetch(
        "INSERT INTO inbox SELECT gen_random_uuid(), now() - interval '8 days' FROM generate_series(1, $1)", count
    )
    assert await tidied() == {"inbox": count}


async def test_imports(clean_tables: None) -> None:
    """Two rows each: one that waits, one that was rejected."""
    for line, (created, finished) in enumerate(
        (
            ("23 hours", None),  # 0: may still be under way
            ("25 hours", None),  # 1: abandoned
            ("25 hours", "23 hours"),  # 2: ended lately
            ("31 days", "31 days"),  # 3: of no interest any more
        )
    ):
        import_id = uuid4()
        await database.fetch(
            "INSERT INTO imports (id, source, created_at, finished_at) VALUES "
            "($1, 'upload', now() - $2::text::interval, now() - $3::text::interval)",
            import_id,
            created,
            finished,
        )
        await database.fetch(
            "INSERT INTO import_rows (import_id, position, line, error) "
            "VALUES ($1, 0, $2, NULL), ($1, 1, $2, 'bad')",
            import_id,
            line,
        )
        await database.fetch("INSERT INTO import_parts VALUES ($1, 0, 2, 1, 0, 0, 1)", import_id)
    assert await tidied() == {"imports": 2, "import_rows": 4}
    rows = await database.fetch("SELECT line, error FROM import_rows ORDER BY line, error NULLS FIRST")
    assert [tuple(row) for row in rows] == [(0, None), (0, "bad"), (2, None), (2, "bad")]
    assert await kept("SELECT count(*) FROM imports") == [2]
    assert await kept("SELECT count(*) FROM import_parts") == [2]


async def test_rows_are_found_without_reading_the_others(clean_tables: None) -> None:
    old, new = uuid4(), uuid4()
    for import_id, age, rows in ((old, "25 hours", 2 * BATCH + 1), (new, "1 hour", 4 * BATCH)):
        await database.fetch(
            "INSERT INTO imports (id, source, created_at) VALUES ($1, 'upload', now() - $2::text::interval)",
            import_id,
            age,
        )
        await database.fetch(
            "INSERT INTO import_rows (import_id, position, line) "
            "SELECT $1, n, n FROM generate_series(0, $2 - 1) AS n",
            import_id,
            rows,
        )
    read = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'import_rows'"
    (before,) = await kept(read)
    assert await tidied() == {"imports": 1, "import_rows": 2 * BATCH + 1}
    (after,) = await kept(read)
    assert after - before < BATCH
    assert await kept("SELECT DISTINCT import_id FROM import_rows") == [new]


async def test_what_a_task_may_still_need_stays(clean_tables: None) -> None:
    await database.fetch("INSERT INTO inbox VALUES (gen_random_uuid(), now() - interval '31 days')")
    for finished in (None, "31 days"):
        await database.fetch(
            "INSERT INTO imports (id, source, created_at, finished_at) VALUES "
            "(gen_random_uuid(), 'upload', now() - interval '31 days', now() - $1::text::interval)",
            finished,
        )
    assert await tidied(timedelta(days=32)) == {}
    assert await tidied(timedelta(days=30)) == {"inbox": 1, "imports": 2}


async def test_a_task_lives_as_long_as_the_settings_say(clean_tables: None) -> None:
    """30 days until it expires, then 3 runs of a day."""
    settings = Settings(
        task_deadline_seconds=30 * 86400,
        task_time_limit_seconds=86400,
        task_max_retries=2,
        result_expires_seconds=31 * 86400,
    )
    for age in ("33 days 1 hour", "32 days 23 hours"):
        await database.fetch("INSERT INTO inbox VALUES (gen_random_uuid(), now() - $1::text::interval)", age)
    async with (
        open_database(database.url(), application_name="tests", timeout=2) as opened,
        open_housekeeping(opened, settings),
    ):
        await asyncio.to_thread(
            wait_until, lambda: len(database.run("SELECT FROM inbox")) == 1, 10, "it is deleted"
        )
    assert await kept("SELECT extract(day FROM now() - created_at)::int FROM inbox") == [32]


async def test_a_rule_that_fails_keeps_no_other_from_its_turn(
    clean_tables: None, caplog: pytest.LogCaptureFixture
) -> None:
    await database.fetch("INSERT INTO inbox VALUES (gen_random_uuid(), now() - interval '8 days')")
    await database.fetch(
        "INSERT INTO imports (id, source, created_at) "
        "VALUES (gen_random_uuid(), 'upload', now() - interval '2 days')"
    )
    async with database.connected() as other, other.transaction():
        await other.execute("LOCK TABLE inbox")
        assert await tidied() == {"imports": 1}
    assert "tidying inbox failed" in caplog.text
    assert await tidied() == {"inbox": 1}


async def test_one_process_at_a_time(clean_tables: None) -> None:
    await database.fetch("INSERT INTO inbox VALUES (gen_random_uuid(), now() - interval '8 days')")
    async with database.connected() as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", 0x686F757365)
        assert await tidied() == {}
    assert await tidied() == {"inbox": 1}
