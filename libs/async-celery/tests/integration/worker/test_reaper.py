"""What the reaper promises: who waits hears the end, and what cannot be worked is kept with its reason."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import chain, chord
from celery.exceptions import TaskRevokedError

from async_celery.worker import Policy, dead_letters

from ..conftest import Address
from .reaper_process import ReaperProcess
from .worker_process import WorkerProcess, wait_until

Take = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def site(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker that is not started: its app, its queue, and what is stored of its tasks."""
    site = WorkerProcess(tmp_path_factory.mktemp("site"), broker=vhost, backend=backend.url(), queue="idle")
    yield site
    site.close()


@pytest.fixture(scope="module")
def worker(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker that gives up soon."""
    policy = Policy(max_attempts=2)
    with WorkerProcess(
        tmp_path_factory.mktemp("worker"), broker=vhost, backend=backend.url(), policy=policy
    ) as worker:
        yield worker


@pytest.fixture(autouse=True, scope="module")
def reaper(site: WorkerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReaperProcess]:
    """One reaper for all queues."""
    with ReaperProcess(tmp_path_factory.mktemp("reaper"), site.settings) as reaper:
        yield reaper


@pytest.fixture
def parked(site: WorkerProcess) -> Iterator[Take]:
    """Return a function that takes what is parked, as soon as there is so much of it."""

    def take(count: int = 1, timeout: float = 15) -> list[Any]:
        found: list[Any] = []
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


def store(site: WorkerProcess, task_id: str, state: str, result: Any) -> None:
    """Store an end, as a worker does."""
    backend: Any = site.client.backend
    meta = {"status": state, "result": result, "traceback": None, "children": [], "task_id": task_id}
    backend.client.set(backend.get_key_for_task(task_id), json.dumps(meta), ex=60)


def raw(message: Any) -> bytes:
    """Return a message's body; kombu has made text of it where it could."""
    return message.body.encode() if isinstance(message.body, str) else bytes(message.body)


def body_of(*args: Any, **embed: Any) -> bytes:
    return json.dumps(
        [args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **embed}]
    ).encode()


# ---- what has only expired ----


def test_a_wait_that_expired_is_told_at_once_and_not_parked(site: WorkerProcess, parked: Take) -> None:
    task_id = site.send("add", 1, 2, expires=0.3)
    meta = site.ended(task_id, 0.3 + 2)
    assert meta["status"] == "REVOKED"
    assert isinstance(meta["result"], TaskRevokedError)
    assert meta["result"].args == ("expired",)
    # The one after it is parked: so this one has been settled.
    bury(site, b"{")
    (only,) = parked()
    assert raw(only) == b"{"
    assert site.dead_letters() == []


def test_f8_an_expired_member_fails_its_chord(site: WorkerProcess, parked: Take) -> None:
    app = site.client
    header = [app.signature("add", args=(n, 1), options={"expires": 0.2}) for n in range(3)]
    body: Any = chord(header, app=app)(app.signature("total"))
    meta = site.ended(body.id)
    assert meta["status"] == "FAILURE"
    assert "expired" in str(meta["result"])
    assert parked(0) == []


def test_an_expired_step_ends_its_chain(site: WorkerProcess) -> None:
    app = site.client
    steps = chain(app.signature("add", args=(1, 1), options={"expires": 0.2}), app.signature("echo"), app=app)
    last: Any = steps.apply_async()
    assert site.ended(last.id)["status"] == "REVOKED"


def test_an_end_that_is_stored_stays(site: WorkerProcess, parked: Take) -> None:
    done, cancelled = str(uuid4()), str(uuid4())
    store(site, done, "SUCCESS", 3)
    store(site, cancelled, "REVOKED", {"exc_type": "TaskRevokedError", "exc_message": ["revoked"]})
    bury(site, body_of(1, 2), reason="expired", id=done, task="add")
    bury(site, body_of(1, 2), id=done, task="add")
    bury(site, body_of(1, 2), id=cancelled, task="add")
    bury(site, b"the last")
    (only,) = parked()
    assert raw(only) == b"the last"
    assert site.meta(done)["result"] == 3
    assert site.meta(cancelled)["status"] == "REVOKED"


# ---- what no worker could do ----


def test_w2_a_poison_task_is_parked_with_its_reason(worker: WorkerProcess, parked: Take) -> None:
    before = time.time()
    poison, good = worker.send("die"), worker.send("add", 1, 2)
    (letter,) = parked(timeout=30)
    assert worker.ended(good)["result"] == 3
    meta = worker.meta(poison)
    assert (meta["status"], type(meta["result"]).__name__) == ("FAILURE", "WorkerLost")
    assert len(worker.oracle.executions(poison)) == 2
    told = letter.headers
    assert told["x-dead-letter-id"] == told["id"] == poison
    assert told["x-dead-letter-reason"] == "rejected"
    assert told["x-dead-letter-error-type"] == "WorkerLost"
    assert told["x-dead-letter-error"] == str(meta["result"])
    assert told["x-dead-letter-queue"] == worker.settings.queue
    assert told["x-dead-letter-attempts"] == worker.meta(poison)["attempts"]
    assert before < told["x-dead-letter-at"] < time.time()
    assert "x-death" not in told
    assert letter.properties["delivery_mode"] == 2
    assert letter.payload[0] == []


def test_w12_an_unknown_task_that_was_delayed_is_no_expired_one(worker: WorkerProcess, parked: Take) -> None:
    unknown = worker.send("nobody knows", countdown=1)
    (letter,) = parked()
    assert letter.headers["x-dead-letter-reason"] == "rejected"
    assert letter.headers["x-dead-letter-error-type"] == "NotRegistered"
    assert worker.meta(unknown)["status"] == "FAILURE"


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
        ("rejected", b"[[], {}, {}]", {"id": "new", "task": {"add": 1}}, "InvalidTaskError"),
        ("rejected", b"{}", {"id": "new", "task": "unknown", "long": "x" * 125_000}, "NotRegistered"),
    ],
)
def test_a_failure_that_no_worker_stored_is_stored(
    site: WorkerProcess,
    parked: Take,
    reason: str,
    body: bytes,
    headers: dict[str, Any],
    error: str,
) -> None:
    if headers.get("id") == "new":
        headers = headers | {"id": str(uuid4())}
    bury(site, body, reason=reason, **headers)
    (letter,) = parked()
    assert letter.headers["x-dead-letter-reason"] == reason
    assert letter.headers["x-dead-letter-error-type"] == error
    assert letter.headers["x-dead-letter-error"]
    assert (raw(letter), letter.content_type) == (body, "application/json")
    # What does not fit into a frame any more is left out.
    assert {name: letter.headers.get(name) for name in headers if name != "long"} == {
        name: value if isinstance(value, str) or "long" not in headers else str(value)
        for name, value in headers.items()
        if name != "long"
    }
    if isinstance(task_id := headers.get("id"), str):
        assert letter.headers["x-dead-letter-id"] == task_id
        meta = site.meta(task_id)
        assert (meta["status"], type(meta["result"]).__name__) == ("FAILURE", error)
    else:
        assert UUID(letter.headers["x-dead-letter-id"])
    assert site.dead_letters() == []


def test_whatever_is_stored_the_next_one_has_its_turn(site: WorkerProcess, parked: Take) -> None:
    backend: Any = site.client.backend
    nothing, no_text = str(uuid4()), str(uuid4())
    store(site, nothing, "FAILURE", None)
    key = backend.get_key_for_task(no_text)
    backend.client.lpush(key, 1)
    backend.client.expire(key, 60)
    for task_id in (nothing, no_text):
        bury(site, body_of(1, 2), reason="delivery_limit", id=task_id, task="add")
    letters = parked(2)
    assert [letter.headers["id"] for letter in letters] == [nothing, no_text]
    assert {letter.headers["x-dead-letter-error-type"] for letter in letters} == {"DeliveryLimitReached"}


def test_a_dead_member_fails_its_chord(site: WorkerProcess, parked: Take) -> None:
    app = site.client
    group, body_id = str(uuid4()), str(uuid4())
    body = app.signature("total", options={"task_id": body_id})
    app.backend.set_chord_size(group, 1)
    member: dict[str, Any] = {"id": str(uuid4()), "task": "add", "group": group, "group_index": 0}
    bury(site, body_of(1, 2, chord=body), reason="delivery_limit", **member)
    meta = site.ended(body_id)
    parked()
    assert meta["status"] == "FAILURE"
    assert "delivery-limit" in str(meta["result"])


def test_a_chord_that_its_last_member_completed_is_sent(site: WorkerProcess, parked: Take) -> None:
    """The worker died between the count and the body, and the message ran into its delivery limit."""
    app = site.client
    group, body_id = str(uuid4()), str(uuid4())
    body = app.signature("total", options={"task_id": body_id})
    app.backend.set_chord_size(group, 1)
    member: dict[str, Any] = {"id": str(uuid4()), "task": "add", "group": group, "group_index": 0}
    store(site, member["id"], "SUCCESS", 3)
    bury(site, body_of(1, 2, chord=body), reason="delivery_limit", **member)
    with site.client.connection_for_read() as connection:
        queue = site.client.amqp.queues[site.settings.queue].bind(connection.default_channel)
        sent: list[Any] = []

        def is_sent() -> bool:
            if (message := queue.get(no_ack=True)) is not None:
                sent.append(message)
            return bool(sent)

        wait_until(is_sent, what="the body's message")
    assert sent[0].headers["id"] == body_id
    assert sent[0].payload[0] == [[3]]
    assert parked(0) == []
