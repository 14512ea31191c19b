"""What `send_task` makes of its arguments, and what it refuses before anything is sent."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, chain, group

from async_celery import TaskNotFound
from async_celery.testing import FakeCelery

APP = Celery(set_as_current=False)


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


@pytest.mark.parametrize("shape", ["task", "chain", "group"])
async def test_an_id_may_be_known_before_it_is_sent(shape: str) -> None:
    fake = FakeCelery()
    task_id = fake.new_task_id()
    assert task_id != fake.new_task_id()
    # What was promised under an id counts as queued, whoever asks; of any other id nothing is known.
    assert (await FakeCelery().handle(task_id).status()).state == "QUEUED"
    add = APP.signature("add", args=(1, 2), queue="q")
    if shape == "task":
        handle = await fake.send_task("add", queue="q", task_id=task_id)
    else:
        canvas = chain(add, add) if shape == "chain" else group([add, add], app=APP)
        handle = await fake.submit(canvas, task_id=task_id)
    assert handle.id == task_id
    assert (await fake.handle(task_id).status()).state == "QUEUED"


async def test_an_id_of_the_caller_s_own_is_not_known_before() -> None:
    fake = FakeCelery()
    with pytest.raises(TaskNotFound):
        await fake.handle("mine").status()
    handle = await fake.submit(APP.signature("add", queue="q"), task_id="mine")
    assert (await handle.status()).id == (await fake.handle("mine").status()).id == "mine"
