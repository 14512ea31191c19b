"""ReliableTask without a worker: retries, and how its start answers the tracer."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, states
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from kombu.exceptions import EncodeError, OperationalError
from redis.exceptions import ResponseError

from async_celery.worker import Policy, TaskCancelled, install
from async_celery.worker.task import GivenUp, ReliableTask, Revoked


class Backend:
    """Answers as it is told, and takes down what is stored."""

    def __init__(self) -> None:
        self.revoked = self.finished = False
        self.redeliveries = 0
        self.error: Exception | None = None
        self.begun: list[dict[str, Any]] = []
        self.stored: list[tuple[str, str]] = []

    def begin(self, task_id: str, root_id: str | None, **options: Any) -> Any:
        self.begun.append({"task_id": task_id, "root_id": root_id, **options})
        if self.error is not None:
            raise self.error
        return SimpleNamespace(revoked=self.revoked, finished=self.finished, redeliveries=self.redeliveries)

    def give_back(self, task_id: str) -> None:
        self.stored.append(("given back", task_id))

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        return isinstance(exc, ConnectionError)

    def follow_up(self, request: Any) -> None:
        self.stored.append(("followed up", request.id))

    def mark_as_revoked(self, task_id: str, reason: str, *, request: Any, store_result: bool) -> None:
        self.stored.append((reason, task_id))

    def mark_as_failure(self, task_id: str, exc: Exception, *, request: Any, store_result: bool) -> None:
        self.stored.append((type(exc).__name__, task_id))
        self.attempts = 1 + request.retries + request.redeliveries


@pytest.fixture
def task() -> Any:
    app = Celery("tests", broker="memory://", set_as_current=False)
    install(app, Policy(max_attempts=3))

    @app.task(name="it", bind=True, shared=False, max_retries=None)
    def it(self: Any) -> None: ...

    it.backend = Backend()  # type: ignore[assignment]  # what a test needs of it
    assert isinstance(it, ReliableTask)
    return it


TRACED = trace_ok_t("traced", None, 0.0, None)


def start(task: Any, tracer: Any = lambda *_: TRACED, **request: Any) -> Any:
    """Start it as a worker does; return what it returned, or the exception that the worker is told."""
    task.__trace__ = tracer
    outcome = task.__trace__("a", [], {}, {"id": "a", "root_id": "r", "retries": 0, **request})
    return outcome[0] if outcome[1] is None else outcome[1].retval


def test_task_begins_with_one_question(task: Any) -> None:
    assert start(task) == "traced"
    assert start(task, delivery_info={"redelivered": True}, retries=1) == "traced"
    assert task.backend.begun == [
        {"task_id": "a", "root_id": "r", "redelivered": False, "retried": False},
        {"task_id": "a", "root_id": "r", "redelivered": True, "retried": True},
    ]


def test_finished_task_is_followed_up(task: Any) -> None:
    task.backend.finished = task.backend.revoked = True
    assert type(start(task)) is Ignore
    assert task.backend.stored == [("followed up", "a")]


def test_cancelled_task_is_revoked(task: Any) -> None:
    task.backend.revoked = True
    assert isinstance(start(task), Revoked)
    assert task.backend.stored == [("revoked", "a")]


def test_task_that_is_stopped_is_revoked(task: Any) -> None:
    def tracer(*_: Any) -> None:
        raise TaskCancelled("stop")

    assert isinstance(start(task, tracer), Revoked)
    assert task.backend.stored == [("terminated", "a")]


@pytest.mark.parametrize(
    ("retries", "redeliveries", "error"),
    [
        (0, 2, None),
        (2, 0, None),
        (1, 1, None),
        (0, 3, "WorkerLost"),
        (1, 2, "WorkerLost"),
        (3, 0, "MaxRetriesExceededError"),
    ],
)
def test_no_more_runs_begin_than_allowed(task: Any, retries: int, redeliveries: int, error: str | None) -> None:
    task.backend.redeliveries = redeliveries
    outcome = start(task, retries=retries)
    if error is None:
        assert outcome == "traced"
    else:
        assert isinstance(outcome, GivenUp)
        assert not outcome.requeue  # type: ignore[attr-defined]  # older stubs
        assert task.backend.stored == [(error, "a")]
        assert task.backend.attempts == 3


@pytest.mark.parametrize("requeue", [True, False])
def test_run_that_the_task_puts_off_is_given_back(task: Any, requeue: bool) -> None:
    rejected = trace_ok_t(None, TraceInfo(states.REJECTED, Reject("not now", requeue=requeue)), 0.0, None)
    assert start(task, lambda *_: rejected).requeue == requeue
    assert task.backend.stored == [("given back", "a")] * requeue


@pytest.mark.parametrize("follows", [{"chain": ["next"]}, {"callbacks": ["next"]}])
def test_nothing_follows_a_result_that_cannot_be_stored(follows: dict[str, Any]) -> None:
    app = Celery("tests", broker="memory://", backend="redis://", set_as_current=False)
    install(app, Policy(max_result_bytes=10))

    @app.task(name="echo", shared=False)
    def echo(value: Any) -> Any:
        return value

    task: Any = echo

    def run(value: Any, **request: Any) -> Any:
        task.push_request(id="a", args=[value], kwargs={}, called_directly=False, **request)
        try:
            return task(value)
        finally:
            task.pop_request()

    assert run("short", **follows) == "short"
    for refused in (float("nan"), "longer than ten"):
        with pytest.raises(EncodeError):
            run(refused, **follows)
        # Nothing is passed on.
        run(refused)
        run(refused, ignore_result=True, **follows)


@pytest.mark.parametrize(
    ("error", "goes_back"),
    [(ConnectionError("away"), True), (SoftTimeLimitExceeded(1), True), (ResponseError("WRONGTYPE"), False)],
)
def test_message_goes_back_only_while_redis_is_away(task: Any, error: Exception, goes_back: bool) -> None:
    task.backend.error = error
    outcome = start(task)
    assert (type(outcome), outcome.requeue) == (Reject, goes_back)


def test_what_the_main_process_could_not_store_is_stored_here(task: Any) -> None:
    assert isinstance(start(task, revoked_as="expired"), Revoked)
    assert task.backend.stored == [("expired", "a")]


def fail_to_send(task: Any, exc: Exception) -> Any:
    def apply_async(*_: Any, **__: Any) -> None:
        raise exc

    task.apply_async = apply_async
    task.push_request(id="a", args=[], kwargs={}, called_directly=False, delivery_info={})
    try:
        with pytest.raises(Reject) as caught:
            task.retry(countdown=1)
    finally:
        task.pop_request()
    return caught.value


def test_retry_that_cannot_be_sent_goes_back(task: Any) -> None:
    assert fail_to_send(task, OperationalError("no broker")).requeue


def test_retry_that_can_never_be_sent_does_not(task: Any) -> None:
    assert not fail_to_send(task, EncodeError("not JSON")).requeue
