"""A worker of signed pickle: it runs what was signed for the very task, once, and not a byte of anything else."""

import json
import os
import pickle
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import chain, chord
from kombu import serialization

from async_celery.signed_pickle import CONTENT_TYPE, SERIALIZER, KeyRing, SignedPickle, TaskBody

from ..conftest import Address
from .conftest import WorkerFactory
from .pickle_app import KEY, NEXT_KEY, SIGNED, Shipment, make_pickle_app
from .test_consumer_faults import publish
from .worker_process import WorkerProcess, close_app, wait_until

KOMBU: Any = serialization
ONE, TWO = Decimal("1.50"), Decimal("2.25")


class Gadget:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._mark}",)


@pytest.fixture(scope="module")
def worker(vhost: str, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with WorkerProcess(
        tmp_path_factory.mktemp("pickle-worker"),
        broker=vhost,
        backend=backend.url(),
        queue="pickle",
        app="tests.integration.worker.pickle_app:app",
    ) as running:
        close_app(running.client)
        running.client = make_pickle_app(running.settings)
        yield running
    KOMBU.unregister(SERIALIZER)


class Letter:
    """A message as the client would send it, to be tampered with."""

    def __init__(
        self, worker: WorkerProcess, name: str = "plus", *, signed: SignedPickle = SIGNED, **options: Any
    ) -> None:
        self.id = str(uuid4())
        options = {"expires": datetime.now(UTC) + timedelta(minutes=1), **options}
        amqp: Any = worker.client.amqp
        message = amqp.as_task_v2(self.id, name, (ONE, TWO), serializer=SERIALIZER, **options)
        self.headers: dict[str, Any] = message.headers
        self.body = signed.seal(message.body)

    def send(self, worker: WorkerProcess, *, body: bytes | str | None = None, **changes: Any) -> str:
        """Publish it, with another body or other headers; return its id."""
        content_type = changes.pop("content_type", CONTENT_TYPE)
        raw = self.body if body is None else body
        raw = raw.encode() if isinstance(raw, str) else raw
        publish(worker, raw, {**self.headers, **changes}, content_type)
        return self.id


def send(worker: WorkerProcess, name: str, *args: Any, **options: Any) -> str:
    return worker.send(name, *args, serializer=SERIALIZER, **options)


def dead_letters(worker: WorkerProcess, count: int) -> set[str]:
    """Wait for so many dead letters; return the ids of their tasks."""
    ids: set[str] = set()

    def have_come() -> bool:
        ids.update(letter.headers["id"] for letter in worker.dead_letters())
        return len(ids) >= count

    wait_until(have_come, what=f"{count} dead letters")
    return ids


SHIPMENT = Shipment(
    weight=ONE, left=datetime(2026, 11, 22, tzinfo=UTC), due=date(2026, 12, 22), labels=frozenset({"fragile"})
)


def test_arguments_arrive_as_they_are(worker: WorkerProcess) -> None:
    result = worker.ended(send(worker, "describe", SHIPMENT))["result"]
    assert result == {name: repr(value) for name, value in vars(SHIPMENT).items()}


def test_a_failure_over_such_an_argument_is_stored(worker: WorkerProcess) -> None:
    """As text: what is stored is JSON."""
    meta = worker.stored(send(worker, "fail", SHIPMENT))
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", "ValueError")
    assert "fragile" in repr(meta["result"]["exc_message"])


def test_a_result_that_json_cannot_hold_is_a_failure(worker: WorkerProcess) -> None:
    """Only arguments are pickled, never results."""
    meta = worker.stored(send(worker, "echo", SHIPMENT))
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", "EncodeError")


def test_nothing_else_is_run(worker: WorkerProcess, tmp_path: Path) -> None:
    """W13 and security 1: each of these ends as FAILURE for its waiter and as a dead letter."""
    mark = tmp_path / "it-ran"
    gadget = pickle.dumps(((Gadget(mark),), {}, {}))
    json_body = json.dumps([["1.50", "2.25"], {}, {}])
    expected: dict[str, tuple[str, str]] = {}

    def refused(task_id: str, error: str, text: str) -> None:
        expected[task_id] = error, text

    letter = Letter(worker)
    refused(
        letter.send(worker, body=gadget, content_type="application/x-python-serialize"), "ContentDisallowed", ""
    )
    refused(Letter(worker).send(worker, body=gadget), "DecodeError", "no envelope")
    refused(Letter(worker).send(worker, body=json_body, content_type="application/json"), "ContentDisallowed", "")
    for trusted in ("application/data", "application/text"):  # by kombu, whatever is accepted
        refused(Letter(worker).send(worker, body=json_body, content_type=trusted), "DecodeError", "not signed")
        refused(Letter(worker).send(worker, body=gadget, content_type=trusted), "DecodeError", "")

    letter = Letter(worker)
    fields = json.loads(letter.body)
    wrong_mac = json.dumps({**fields, "mac": fields["mac"][::-1]}, separators=(",", ":"))
    refused(letter.send(worker, body=wrong_mac), "DecodeError", "signature does not match")
    letter = Letter(worker)
    refused(letter.send(worker, body=letter.body.replace("plus", "pLus")), "DecodeError", "signature")
    stranger = SignedPickle(KeyRing(signing=b"a key of somebody else"))
    refused(Letter(worker, signed=stranger).send(worker), "DecodeError", "key that is not accepted")
    # Genuine, and too late, whatever its new headers say.
    late = Letter(worker, expires=datetime.now(UTC) - timedelta(seconds=1))
    refused(late.send(worker, expires=None), "DecodeError", "stale")
    # The genuine envelopes of two other tasks.
    first, second = Letter(worker), Letter(worker)
    refused(first.send(worker, body=second.body), "DecodeError", f"signed for plus[{second.id}]")
    refused(second.send(worker, body=first.body), "DecodeError", f"signed for plus[{first.id}]")
    letter = Letter(worker)
    refused(letter.send(worker, task="plus_later"), "DecodeError", f"signed for plus[{letter.id}]")
    # Signed with our key, as by a thief of it: the classes are still ours to choose.
    thief = SignedPickle(KeyRing(signing=KEY))
    thief._pickled = lambda value: gadget  # type: ignore[method-assign]
    refused(Letter(worker, signed=thief).send(worker), "DecodeError", "posix.system is none of the classes")

    for task_id, (error, text) in expected.items():
        meta = worker.stored(task_id)
        assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", error), (text, meta)
        assert text in " ".join(meta["result"]["exc_message"]), meta
        assert worker.oracle.executions(task_id) == []
    assert dead_letters(worker, len(expected)) == set(expected)
    assert not mark.exists()
    # Well and alive.
    assert worker.ended(send(worker, "plus", ONE, TWO))["result"] == "3.75"


def test_what_expired_in_its_queue_is_no_dead_letter(worker: WorkerProcess) -> None:
    task = Letter(worker, expires=datetime.now(UTC) - timedelta(seconds=1)).send(worker)
    assert worker.ended(task)["status"] == "REVOKED"
    assert worker.oracle.executions(task) == []
    assert worker.dead_letters() == []


def test_a_replay_of_what_has_ended_does_nothing(worker: WorkerProcess) -> None:
    letter = Letter(worker)
    letter.send(worker)
    ended = worker.ended(letter.id)
    for _ in range(3):
        letter.send(worker)
    # Behind the replays in the same queue, and worked by the same child.
    assert worker.ended(send(worker, "plus", ONE, TWO))["result"] == "3.75"
    assert len(worker.oracle.executions(letter.id)) == 1
    assert worker.meta(letter.id) == ended
    assert worker.dead_letters() == []


def test_a_redelivery_of_what_has_not_ended_passes(worker: WorkerProcess) -> None:
    """The same envelope again, this time for a good reason: the first run's process died."""
    task = send(worker, "die_times", 1)
    assert worker.ended(task, 20)["result"] == 2
    assert len(worker.oracle.executions(task)) == 2


def test_the_next_key_is_accepted_already(worker: WorkerProcess) -> None:
    letter = Letter(worker, signed=SignedPickle(KeyRing(signing=NEXT_KEY, accepted=(KEY,))))
    assert worker.ended(letter.send(worker))["result"] == "3.75"


def test_a_retry_is_signed(worker: WorkerProcess) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=30)
    task = send(worker, "plus_later", ONE, TWO, expires=expires)
    assert worker.ended(task)["result"] == "3.75"
    assert [run.attempt for run in worker.oracle.executions(task)] == [1, 2]
    assert worker.dead_letters() == []


def test_what_a_workflow_sends_later_is_signed(worker: WorkerProcess) -> None:
    """The next steps of a chain and the body of a chord are published by the worker."""
    client = worker.client

    def step(name: str, *args: Any) -> Any:
        return client.signature(name, args, options={"serializer": SERIALIZER}, app=client)

    members = [chain(step("plus", ONE, TWO), step("plus", TWO), app=client), step("plus", ONE, ONE)]
    body = chain(chord(members, step("plus_all", Decimal(10)), app=client), step("plus", ONE), app=client)()
    assert worker.ended(body.id)["result"] == str(ONE + TWO + TWO + ONE + ONE + 10 + ONE)
    assert worker.dead_letters() == []


def test_remote_control_is_json(worker: WorkerProcess) -> None:
    control: Any = worker.client.control
    assert control.ping(timeout=20, limit=1)[0].popitem()[1] == {"ok": "pong"}


def test_signed_pickle_on_a_queue_of_json_is_refused(make_worker: WorkerFactory, worker: WorkerProcess) -> None:
    with make_worker() as other:
        letter = Letter(worker, "add")
        letter.send(other)
        meta = other.stored(letter.id)
        assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", "ContentDisallowed")
        assert dead_letters(other, 1) == {letter.id}
        assert other.oracle.executions(letter.id) == []


def test_an_envelope_is_as_old_as_its_message(worker: WorkerProcess) -> None:
    """A message without an expiry gets one: an envelope is not good for ever."""
    letter = Letter(worker, expires=None)
    assert json.loads(letter.body)["expires"] == pytest.approx(time.time() + 3600, abs=60)
    assert worker.ended(letter.send(worker))["result"] == "3.75"
    assert isinstance(KOMBU.loads(letter.body, CONTENT_TYPE, "utf-8", accept=[CONTENT_TYPE]), TaskBody)
