"""Whether a message can become a task, whatever it is."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st
from kombu import Message
from kombu.exceptions import DecodeError
from redis.exceptions import ConnectionError as RedisConnectionError

from async_celery.worker import Policy, install
from async_celery.worker.consumer import Consumer, context_of, refusal_of

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=10,
)
GOOD = {"task": "add", "id": "a", "root_id": "a", "retries": 0, "timelimit": [None, 5]}


def message(body: object, headers: Any, **options: Any) -> Message:
    raw: Any = body if isinstance(body, bytes) else json.dumps(body).encode()
    options = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "accept": {"application/json"},
        **options,
    }
    return Message(raw, headers=headers, delivery_info={"routing_key": "work"}, properties={}, **options)


def test_good_message_is_taken() -> None:
    assert refusal_of(message([[1], {"b": 2}, {"chord": None}], GOOD), known={"add"}) is None
    assert refusal_of(message([[1], {"b": 2}, None], {"task": "add", "id": "a"}), known={"add"}) is None


@given(JSON_VALUES)
def test_any_body_is_taken_or_refused(body: object) -> None:
    match body:
        case [list(), dict(), dict() | None]:
            assert refusal_of(message(body, GOOD), known={"add"}) is None
        case _:
            assert str(refusal_of(message(body, GOOD), known={"add"})).startswith("not a task message")


@given(st.binary())
def test_any_bytes_are_refused(body: bytes) -> None:
    assert refusal_of(message(body, GOOD), known={"add"}) is not None


@given(st.dictionaries(st.sampled_from([*GOOD, "parent_id", "group", "stamps", "stamped_headers"]), JSON_VALUES))
def test_any_headers_are_taken_or_refused(headers: dict[str, Any]) -> None:
    it = message([[], {}, {}], {**GOOD, **headers})
    refusal_of(it, known={"add"})
    # Whatever it is, the result backend can work with it.
    retries = context_of(it).retries
    assert retries is None or isinstance(retries, int)


@given(JSON_VALUES)
def test_headers_may_be_anything(headers: Any) -> None:
    it = message([[], {}, {}], GOOD)
    it.headers = headers
    refusal_of(it, known={"add"})
    context_of(it)


def test_results_must_be_in_one_redis() -> None:
    app = Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=False)
    install(app, Policy())
    assert app.conf.result_backend_always_retry
    with pytest.raises(ImproperlyConfigured, match="result_backend"):
        Consumer(lambda _: None, app=app)


def test_message_whose_refusal_cannot_be_stored_is_left_to_the_reaper() -> None:
    settled: list[str] = []
    it = message(b"{", {**GOOD, "expires": "2020-01-01T00:00:00+00:00"})
    it.reject_log_error = lambda *_: settled.append("dead letter")  # type: ignore[method-assign]
    backend = SimpleNamespace(mark_as_revoked=_refuse)
    consumer: Any = SimpleNamespace(app=SimpleNamespace(backend=backend), connection_errors=(), strategies={})
    Consumer.refuse(consumer, it, DecodeError("it is stale"))
    assert settled == ["dead letter"]


def _refuse(*_: Any, **__: Any) -> None:
    raise RedisConnectionError
