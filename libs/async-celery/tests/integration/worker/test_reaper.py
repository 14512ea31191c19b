"""What the reaper promises: who waits hears the end, what cannot be worked is kept with its reason, nothing is lost."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import chain, chord
from celery.exceptions import TaskRevokedError
from kombu import Message

from async_celery.worker import Policy, dead_letters

from ..faults import scaled
from ..redis_server import RedisServer
from .conftest import WorkerFactory
from .reaper_process import ReaperProcess
from .worker_process import WorkerProcess, wait_until

Take = Callable[..., list[Message]]


@pytest.fixture
def site(make_worker: WorkerFactory) -> WorkerProcess:
    """A worker that is not started: its app, its queue, and what is stored of its tasks."""
    return make_worker(policy=Policy(max_attempts=2))


@pytest.fixture
def reaper(site: WorkerProcess, tmp_path: Path) -> Iterator[ReaperProcess]:
    """A reaper that is not started."""
    reaper = ReaperProcess(tmp_path, site.settings)
    yield reaper
    reaper.close()


@pytest.fixture
def parked(site: WorkerProcess) -> Iterator[Take]:
    """Return a function that takes what is parked, as soon as there is so much of it."""

    def take(count: int = 1, timeout: float = 15) -> list[Message]:
        found: list[Message] = []
        with site.client.connection_for_read() as connection:
            dead_letters.declare(connection)
            queue = dead_letters.PARKED.bind(connection.default_channel)

            def all_there() -> bool:
                while (message := queue.get(no_ack=True)) is not None:
                    found.append(message)
                return len(found) >= count

            wait_until(all_there, timeout, what=f"{count} parked dead letters")
        return found

    take(0)
    yield take


def bury(site: WorkerProcess, body: bytes, *, reason: str = "rejected", **headers: Any) -> None:
    """Make a message a dead letter, as RabbitMQ does."""
    death = {"reason": reason, "queue": site.settings.queue, "count": 1, "exchange": "", "routing-keys": ["x"]}
    delay = {"reason": "expired", "queue": "celery_delayed_3", "count": 1, "exchange": "", "routing-keys": ["x"]}
    with site.client.connection_for_write() as connection:
        dead_letters.declare(connection)
        connection.Producer().publish(
            body,
            exchange="dead-letters",
            routing_key=site.settings.queue,
            content_type="application/json",
            content_encoding="utf-8",
            headers={**headers, "x-death": [death, delay]},
        )


def body_of(*args: Any, **embed: Any) -> bytes:
    return json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **embed}]).encode()


# ---- what has only expired ----


def test_a_wait_that_expired_is_told_at_once_and_not_parked(
    site: WorkerProcess, reaper: ReaperProcess, parked: Take
) -> None:
    with reaper:
        task_id = site.send("add", 1, 2, expires=0.3)
        meta = site.ended(task_id, 0.3 + 2)
        assert meta["status"] == "REVOKED"
        assert isinstance(meta["result"], TaskRevokedError)
        assert meta["result"].args == ("expired",)
        # The one after it is parked: so this one has been settled.
        bury(site, b"{")
        (only,) = parked()
    assert only.body == b"{"
    assert site.dead_letters() == []


def test_f8_an_expired_member_fails_its_chord(site: WorkerProcess, reaper: ReaperProcess, parked: Take) -> None:
    app = site.client
    header = [app.signature("add", args=(n, 1), options={"expires": 0.2}) for n in range(3)]
    with reaper:
        body: Any = chord(header, app=app)(app.signature("total"))
        meta = site.ended(body.id, 5)
    assert meta["status"] == "FAILURE"
    assert "expired" in str(meta["result"])
    assert parked(0) == []


def test_an_expired_step_ends_its_chain(site: WorkerProcess, reaper: ReaperProcess) -> None:
    app = site.client
    steps = chain(app.signature("add", args=(1, 1), options={"expires": 0.2}), app.signature("echo"), app=app)
    with reaper:
        last: Any = steps.apply_async()
        assert site.ended(last.id, 5)["status"] == "REVOKED"


def test_an_end_that_is_stored_stays(site: WorkerProcess, reaper: ReaperProcess, parked: Take) -> None:
    done, cancelled = str(uuid4()), str(uuid4())
    site.client.backend.store_result(done, 3, "SUCCESS")
    site.client.backend.store_result(cancelled, TaskRevokedError("revoked"), "REVOKED")
    with reaper:
        bury(site, body_of(1, 2), reason="expired", id=done, task="add")
        bury(site, body_of(1, 2), id=done, task="add")
        bury(site, body_of(1, 2), id=cancelled, task="add")
        bury(site, b"the last")
        (only,) = parked()
    assert only.body == b"the last"
    assert site.meta(done)["result"] == 3
    assert site.meta(cancelled)["result"].args == ("revoked",)


# ---- what no worker could do ----


def test_w2_a_poison_task_is_parked_with_its_reason(site: WorkerProcess, reaper: ReaperProcess, parked: Take) -> None:
    with site, reaper:
        before = time.time()
        poison, good = site.send("die"), site.send("add", 1, 2)
        (letter,) = parked(timeout=30)
        assert site.ended(good, 10)["result"] == 3
    meta = site.meta(poison)
    assert (meta["status"], type(meta["result"]).__name__) == ("FAILURE", "WorkerLost")
    assert len(site.oracle.executions(poison)) == 2
    told = letter.headers
    assert told["x-dead-letter-id"] == told["id"] == poison
    assert told["x-dead-letter-reason"] == "rejected"
    assert told["x-dead-letter-error-type"] == "WorkerLost"
    assert told["x-dead-letter-error"] == str(meta["result"])
    assert told["x-dead-letter-queue"] == site.settings.queue
    assert told["x-dead-letter-attempts"] == 2
    assert before < told["x-dead-letter-at"] < time.time()
    assert "x-death" not in told
    assert letter.properties["message_id"] if "message_id" in letter.properties else True
    assert letter.properties["delivery_mode"] == 2
    assert letter.payload[0] == []


def test_w12_an_unknown_task_that_was_delayed_is_no_expired_one(
    site: WorkerProcess, reaper: ReaperProcess, parked: Take
) -> None:
    with site, reaper:
        unknown = site.send("nobody knows", countdown=1)
        (letter,) = parked()
    assert letter.headers["x-dead-letter-reason"] == "rejected"
    assert letter.headers["x-dead-letter-error-type"] == "NotRegistered"
    assert site.meta(unknown)["status"] == "FAILURE"


@pytest.mark.parametrize(
    ("reason", "body", "headers", "error"),
    [
        ("delivery_limit", body_of(1, 2), {"id": "new", "task": "add"}, "DeliveryLimitReached"),
        ("maxlen", body_of(1, 2), {"id": "new", "task": "add"}, "QueueOverflow"),
        ("rejected", body_of(1, 2), {"id": "new", "task": "add"}, "Refused"),
        ("rejected", body_of(), {"id": "new", "task": "unknown"}, "NotRegistered"),
        ("rejected", b'[[1, 2], {}, {"cal', {"id": "new", "task": "add"}, "DecodeError"),
        ("rejected", b"[1, 2]", {"id": "new", "task": "add"}, "InvalidTaskError"),
        ("rejected", b"\xff\x00", {}, "InvalidTaskError"),
        ("rejected", b"{}", {"id": 7, "task": "add"}, "InvalidTaskError"),
    ],
)
def test_a_failure_that_no_worker_stored_is_stored(
    site: WorkerProcess,
    reaper: ReaperProcess,
    parked: Take,
    reason: str,
    body: bytes,
    headers: dict[str, Any],
    error: str,
) -> None:
    if headers.get("id") == "new":
        headers = headers | {"id": str(uuid4())}
    bury(site, body, reason=reason, **headers)
    with reaper:
        (letter,) = parked()
    assert letter.headers["x-dead-letter-reason"] == reason
    assert letter.headers["x-dead-letter-error-type"] == error
    assert letter.headers["x-dead-letter-error"]
    assert (letter.body, letter.content_type) == (body, "application/json")
    assert {name: letter.headers.get(name) for name in headers} == headers
    if isinstance(task_id := headers.get("id"), str):
        assert letter.headers["x-dead-letter-id"] == task_id
        meta = site.meta(task_id)
        assert (meta["status"], type(meta["result"]).__name__) == ("FAILURE", error)
    else:
        assert UUID(letter.headers["x-dead-letter-id"])
    assert site.dead_letters() == []


def test_a_dead_member_fails_its_chord(site: WorkerProcess, reaper: ReaperProcess, parked: Take) -> None:
    app = site.client
    group, body = str(uuid4()), app.signature("total", options={"task_id": str(uuid4())})
    app.backend.set_chord_size(group, 1)
    member = {"id": str(uuid4()), "task": "add", "group": group, "group_index": 0}
    bury(site, body_of(1, 2, chord=body), reason="delivery_limit", **member)
    with reaper:
        meta = site.ended(body.id, 15)
        parked()
    assert meta["status"] == "FAILURE"
    assert "delivery-limit" in str(meta["result"])


def test_a_chord_that_its_last_member_completed_is_sent(
    site: WorkerProcess, reaper: ReaperProcess, parked: Take
) -> None:
    """The worker died between the count and the body, and the message ran into its delivery limit."""
    app = site.client
    group, body = str(uuid4()), app.signature("total", options={"task_id": str(uuid4())})
    app.backend.set_chord_size(group, 1)
    member = {"id": str(uuid4()), "task": "add", "group": group, "group_index": 0}
    app.backend.store_result(member["id"], 3, "SUCCESS")
    bury(site, body_of(1, 2, chord=body), reason="delivery_limit", **member)
    with site, reaper:
        assert site.ended(body.id, 15)["result"] == 3
    assert parked(0) == []


# ---- the process ----


def test_killed_in_the_middle_it_loses_nothing(site: WorkerProcess, reaper: ReaperProcess, parked: Take) -> None:
    kills = scaled(3, 20)
    sent = {str(uuid4()) for _ in range(60 * kills)}
    luck = random.Random(5)
    for task_id in sent:
        bury_many(site, task_id)
    for _ in range(kills):
        reaper.start()
        time.sleep(luck.uniform(0, 0.1))
        reaper.close()
    with reaper:
        letters = parked(len(sent), 30)
        wait_until(lambda: inbox_is_empty(site), what="an empty inbox")
        letters += parked(0)
    times = Counter(letter.headers["x-dead-letter-id"] for letter in letters)
    assert set(times) == sent
    # At most the one that it was at.
    assert times.total() - len(sent) <= kills
    assert {site.meta(task_id)["status"] for task_id in sent} == {"FAILURE"}


def bury_many(site: WorkerProcess, task_id: str) -> None:
    bury(site, body_of(1, 2), id=task_id, task="add")


def inbox_is_empty(site: WorkerProcess) -> bool:
    return site.dead_letters() == []
