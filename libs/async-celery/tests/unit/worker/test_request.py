"""What the main process does with a message whose task did not return."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Celery
from celery.exceptions import Ignore, InvalidTaskError, Reject
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu import Message
from redis.exceptions import ConnectionError as RedisConnectionError

from async_celery.worker import Policy, install
from async_celery.worker.observer import End, Observer, observe
from async_celery.worker.request import ReliableRequest
from async_celery.worker.task import REVOKED_AS, GivenUp, Revoked


class Backend:
    """Takes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.away = False

    def mark_as_revoked(self, task_id: str, reason: str, **_: Any) -> None:
        if self.away:
            raise RedisConnectionError
        self.calls.append(("revoked", reason))

    def mark_as_failure(self, task_id: str, exc: Exception, **_: Any) -> None:
        if self.away:
            raise RedisConnectionError
        self.calls.append(("failure", str(exc.args[0])))

    def give_back(self, task_id: str) -> None:
        self.calls.append(("give back", task_id))
        if self.away:
            raise ConnectionError("redis is away")

    def bury(self, task_id: str) -> None:
        self.calls.append(("bury", task_id))


class Pool:
    def __init__(self) -> None:
        self.signalled: list[int] = []

    def terminate_job(self, pid: int, signal: int) -> None:
        self.signalled.append(pid)


class Made:
    """A request, and what became of its message."""

    def __init__(self, **headers: Any) -> None:
        app = Celery("tests", set_as_current=False)
        install(app, Policy())
        app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
        self.backend = Backend()
        self.settled: list[str] = []
        self.events: list[str] = []

        @app.task(name="it", shared=False)
        def it() -> None: ...

        task: Any = it
        task.backend = self.backend
        headers = {"id": "a", "task": "it", "root_id": "a", **headers}
        body: Any = [[], {}, {}]
        message = Message(body, headers=headers, delivery_info={}, properties={})
        self.request: Any = ReliableRequest(
            message,
            app=app,
            task=task,
            body=body,
            decoded=True,
            on_ack=lambda *_: self.settled.append("ack"),
            on_reject=lambda _, __, requeue: self.settled.append("requeue" if requeue else "dead letter"),
            eventer=SimpleNamespace(enabled=True, send=lambda name, **_: self.events.append(name)),
        )

    def fail(self, exc: BaseException, **options: Any) -> None:
        try:
            raise exc
        except BaseException:
            self.request.on_failure(ExceptionInfo(), **options)


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.mark.parametrize(
    ("exc", "settled", "events"),
    [
        (Revoked("terminated"), ["ack"], ["task-revoked"]),
        (Revoked("revoked"), ["ack"], ["task-revoked"]),
        (GivenUp("WorkerLost: it died", requeue=False), ["dead letter"], ["task-rejected", "task-failed"]),
        (Ignore(), ["ack"], []),
        (Reject("later", requeue=True), ["requeue"], ["task-rejected"]),
        (MemoryError(), ["ack"], ["task-failed"]),
    ],
)
def test_what_the_child_has_stored_is_only_settled(
    made: Made, exc: Exception, settled: list[str], events: list[str]
) -> None:
    made.fail(exc, return_ok=True)
    assert (made.settled, made.events, made.backend.calls) == (settled, events, [])


class Listener(Observer):
    """Takes down how deliveries end."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None]] = []

    def message_ended(self, task: str, request: Mapping[str, Any], end: End, error: str | None = None) -> None:
        self.heard.append((end.value, error))


@pytest.mark.parametrize(
    ("exc", "told", "heard"),
    [
        # Its process has told, but of what is revoked.
        (ValueError(), True, []),
        (MemoryError(), True, []),
        (Ignore(), True, []),
        (Reject("for good", requeue=False), True, []),
        (GivenUp("WorkerLost: it died", requeue=False), True, []),
        (Revoked("revoked"), True, [("revoked", None)]),
        (Revoked("terminated"), True, [("revoked", None)]),
        (Revoked("expired"), True, [("expired", None)]),
        # Nobody has.
        (ValueError(), False, [("failure", "ValueError")]),
        (MemoryError(), False, [("worker_lost", None)]),
        (WorkerLostError(), False, [("worker_lost", None)]),
        (SystemExit(), False, [("worker_lost", None)]),
        (TimeLimitExceeded(1), False, [("time_limit", None)]),
        (Terminated(15), False, [("revoked", None)]),
    ],
)
def test_the_main_process_tells_what_no_other_has(
    made: Made, exc: BaseException, told: bool, heard: list[tuple[str, str | None]]
) -> None:
    listener = Listener()
    observe(made.request.app, listener)
    made.fail(exc, return_ok=told)
    assert listener.heard == heard


def test_of_what_is_interrupted_nobody_tells(made: Made) -> None:
    listener = Listener()
    observe(made.request.app, listener)
    made.request._already_cancelled = True
    for exc in (SystemExit(), Terminated(15)):
        made.fail(exc)
    assert listener.heard == []


def test_another_runs_times_are_not_this_ones() -> None:
    told = Made(received_at=1.0, started_at=2.0, redeliveries=3).request.request_dict
    assert told["received_at"] > 1
    assert not {"started_at", "redeliveries"} & set(told)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T05:00:00+00:00",
        "2026-11-23T05:00:00Z",
        "2026-11-23T05:00",
        "20261123T050000.5+0200",
        "2026-11",
    ],
)
def test_times_are_those_that_celery_reads(text: str) -> None:
    request = Made(expires=text, eta=text).request
    read: Any = maybe_iso8601(text)
    theirs = maybe_make_aware(read, request.tzlocal)
    assert request.expires == request.eta == theirs


@pytest.mark.parametrize("text", ["soon", 12, ["2026"]])
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(InvalidTaskError):
        Made(expires=text)


def test_child_without_memory_is_as_lost(made: Made) -> None:
    made.fail(MemoryError())
    assert (made.settled, made.backend.calls) == (["requeue"], [])


def test_lost_child_gives_its_message_back(made: Made) -> None:
    made.fail(WorkerLostError("died"))
    assert (made.settled, made.backend.calls) == (["requeue"], [])


def test_time_limit_says_what_to_do(made: Made) -> None:
    made.fail(TimeLimitExceeded(300))
    ((kind, text),) = made.backend.calls
    assert (kind, made.settled) == ("failure", ["ack"])
    assert "time limit of 300 s" in text


def test_no_message_is_acknowledged_whose_end_is_not_stored(made: Made) -> None:
    made.backend.away = True
    made.fail(TimeLimitExceeded(300))
    made.request.on_timeout(soft=False, timeout=300)
    assert made.settled == ["requeue"]
    rejected = Made()
    rejected.backend.away = True
    rejected.fail(Reject("for good", requeue=False))
    assert rejected.settled == ["dead letter"]


def test_what_has_expired_goes_on_while_it_cannot_be_stored() -> None:
    made = Made(id="expired", expires="2020-01-01T00:00:00+00:00", revoked_as="header")
    assert REVOKED_AS not in made.request.request_dict
    made.backend.away = True
    assert not made.request.revoked()
    assert (made.settled, made.request.request_dict[REVOKED_AS]) == ([], "expired")
    made.backend.away = False
    assert made.request.revoked()
    assert (made.settled, made.backend.calls) == (["ack"], [("revoked", "expired")])


def test_interrupted_run_is_given_back(made: Made) -> None:
    pool: Any = Pool()
    made.request.cancel(pool)
    assert made.backend.calls == []
    made.request.time_start, made.request.worker_pid = 1.0, 42
    made.backend.away = True
    made.request.cancel(pool)
    assert made.backend.calls == [("give back", "a")]
    assert pool.signalled == [42]
    # Not settled: the broker takes it back with the connection.
    assert made.settled == []


def test_terminating_signals_nobody(made: Made) -> None:
    pool: Any = Pool()
    made.request.time_start, made.request.worker_pid = 1.0, 42
    made.request.terminate(pool, signal="KILL")
    assert (made.backend.calls, pool.signalled) == ([("bury", "a")], [])
