"""What `send_task` makes of its arguments, and what it refuses before anything is sent."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from async_celery.testing import FakeCelery


async def test_a_time_to_start_at_is_a_countdown() -> None:
    fake = FakeCelery()
    now = datetime.now(UTC)
    await fake.send_task("add", queue="q", eta=now + timedelta(seconds=60))
    await fake.send_task("add", queue="q", eta=now - timedelta(seconds=60))
    later, at_once = fake.sent
    assert later.countdown == pytest.approx(60, abs=5)
    assert at_once.countdown == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"expires": 0}, "expires must be within"),
        ({"expires": 3601}, "expires must be within"),
        ({"countdown": -1}, "countdown must be within"),
        ({"countdown": 30, "expires": 30}, "countdown must be within"),
        ({"eta": datetime.now(UTC) + timedelta(hours=2)}, "countdown must be within"),
        ({"eta": datetime(2026, 1, 1)}, "time zone"),
        ({"eta": datetime.now(UTC), "countdown": 1}, "either countdown or eta"),
        ({"priority": 256}, "priority must be within"),
        ({"priority": -1}, "priority must be within"),
    ],
)
async def test_what_makes_no_sense_is_refused(options: dict[str, Any], text: str) -> None:
    fake = FakeCelery()
    with pytest.raises(ValueError, match=text):
        await fake.send_task("add", queue="q", **options)
    assert fake.sent == []
