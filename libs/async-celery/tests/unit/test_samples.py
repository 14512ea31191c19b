"""Messages after a sample: each is what Celery makes, and where that is not sure, Celery is asked."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from celery import Celery, signals
from celery._state import _task_stack  # type: ignore[attr-defined]  # older stubs
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue

from async_celery import samples
from async_celery.errors import PayloadError
from async_celery.recording import CeleryRecorder, _recording
from async_celery.signed_pickle import SERIALIZER
from async_celery.types import PUBLISHED_AT, Publication


def app_of(**conf: Any) -> Any:
    """The recorder's app."""
    app = Celery(broker="amqp://127.0.0.1:9", backend="redis://127.0.0.1:9", set_as_current=False)
    app.conf.update({"task_default_queue": "q", "task_routes": {"routed.*": {"queue": "elsewhere"}}} | conf)
    return CeleryRecorder(app, new_child_id=str).app


APP = app_of(
    task_queues=[
        Queue("q"),
        Queue("typed", Exchange("work", type="topic"), routing_key="typed.#"),
        Queue("many", queue_arguments={"x-max-priority": 9}),
    ],
    task_create_missing_queues=True,
)
LINK = {"task": "linked", "args": [1], "kwargs": {}, "options": {}}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
ids = st.none() | st.text(min_size=1, max_size=3)
options = st.fixed_dictionaries(
    {"task_id": st.text(min_size=1, max_size=3)},
    optional={
        # Another one in each message.
        "root_id": ids,
        "parent_id": ids,
        "group_id": ids,
        "group_index": st.none() | st.integers(0, 9),
        "reply_to": ids,
        "expires": st.none() | st.just("2030-01-01T00:00:30+00:00"),
        "link": st.sampled_from([None, [], LINK, [LINK, LINK]]),
        "link_error": st.sampled_from([None, LINK, [LINK]]),
        "chain": st.sampled_from([None, [], [LINK]]),
        "chord": st.sampled_from([None, LINK]),
        # The same in all of a kind.
        "queue": st.sampled_from(["q", "typed", "many", "new"]),
        "routing_key": st.just("key"),
        "exchange": st.just("work"),
        "priority": st.none() | st.integers(0, 9),
        "ignore_result": st.sampled_from([None, False, True, 0, 1]),
        "time_limit": st.none() | st.integers(1, 2),
        "soft_time_limit": st.just(0.5),
        "serializer": st.sampled_from(["json", "yaml"]),
        "compression": st.just("zlib"),
        "delivery_mode": st.sampled_from([1, 2]),
        "shadow": st.just("named"),
        "retries": st.integers(0, 2),
        "replaced_task_nesting": st.integers(0, 1),
        "argsrepr": st.just("(secret)"),
        "retry": st.booleans(),
        # What only Celery can make.
        "headers": st.just({"mine": 1}),
        "countdown": st.just(0),
        "eta": st.just("2030-01-01T00:00:00+00:00"),
        "stamped_headers": st.just([]),
    },
)


@given(
    name=st.sampled_from(["one", "two", "routed.three"]),
    args=st.none() | st.lists(values, max_size=2) | st.lists(values, max_size=2).map(tuple),
    kwargs=st.none() | st.dictionaries(st.sampled_from(["a", "b"]), values, max_size=2),
    said=options,
)
def test_it_makes_what_celery_makes(name: str, args: Any, kwargs: Any, said: dict[str, Any]) -> None:
    with _recording() as tape:
        ours = APP.send_task(name, args, kwargs, **said)
        theirs = APP._send_by_celery(name, args, kwargs, **said)
    made, expected = tape.publications
    for publication in (made, expected):
        assert publication.options["headers"].pop(PUBLISHED_AT) > 0
    assert made == expected
    assert repr(made.options["headers"]) == repr(expected.options["headers"])
    assert (ours.id, ours.ignored) == (theirs.id, theirs.ignored)


def is_celery_asked(app: Any, name: str = "one", args: Any = (1,), kwargs: Any = None, **said: Any) -> bool:
    """Whether Celery makes the message, other messages of its kind having been made."""
    with _recording() as tape:
        app.send_task("one", (), {}, task_id="first")
        with mock.patch.object(app, "_send_by_celery", wraps=app._send_by_celery) as asked:
            for number in range(2):
                asked.reset_mock()
                app.send_task(name, args, kwargs, **{"task_id": f"{number}"} | said)
    assert len(tape.publications) == 3
    assert bool(asked.call_count) is (asked.call_count == 1)
    return bool(asked.called)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"name": "routed.two", "group_id": "g", "chord": LINK, "root_id": "r", "expires": "2030"},
        {"queue": "new", "priority": 3, "args": None, "kwargs": {"a": object}},
        {"producer": object(), "add_to_parent": False, "link": LINK, "chain": [LINK]},
    ],
)
def test_celery_is_asked_once_for_each_kind(said: dict[str, Any]) -> None:
    assert not is_celery_asked(app_of(), **said)


@pytest.mark.parametrize(
    "said",
    [
        {"task_id": None},
        {"expires": 5},
        {"expires": datetime.now(UTC) + timedelta(1)},
        {"countdown": 5},
        {"eta": datetime.now(UTC) + timedelta(1)},
        {"eta": "2030-01-01T00:00:00+00:00"},  # by which quorum queues are told how long to wait
        {"headers": {"mine": 1}},
        {"stamped_headers": ["a"], "a": "b"},
        {"queue": Queue("q")},
        {"argsrepr": "(secret)"},
    ],
    ids=lambda said: f"{next(iter(said.items()))}",
)
def test_celery_makes_what_may_depend_on_more(said: dict[str, Any]) -> None:
    assert is_celery_asked(app_of(), **said)


def test_celery_refuses_what_are_no_arguments() -> None:
    app = app_of()
    assert not is_celery_asked(app)
    for args, kwargs in ((iter([1]), None), ((), [1])):
        with pytest.raises(PayloadError), _recording():
            app.send_task("one", args, kwargs, task_id="0")


def route(_: str, args: Any, *__: Any, **___: Any) -> dict[str, str]:
    return {"queue": "urgent" if args == (1,) else "q"}


@pytest.mark.parametrize(
    "conf",
    [
        {"task_routes": (route,)},
        {"task_routes": {"other": "q"}, "task_protocol": 1},
        {"task_serializer": SERIALIZER},
    ],
    ids=lambda conf: list(conf)[-1],
)
def test_celery_makes_what_is_not_alike(conf: dict[str, Any]) -> None:
    assert is_celery_asked(app_of(**conf))


@contextlib.contextmanager
def listener() -> Iterator[None]:
    def hear(**_: Any) -> None:
        pass

    signals.before_task_publish.connect(hear)
    try:
        yield
    finally:
        signals.before_task_publish.disconnect(hear)


@contextlib.contextmanager
def running_task() -> Iterator[None]:
    request = SimpleNamespace(called_directly=False, id="parent", root_id="root", delivery_info={})
    _task_stack.push(SimpleNamespace(request=request, add_trail=lambda _: None))
    try:
        yield
    finally:
        _task_stack.pop()


@pytest.mark.parametrize("around", [listener, running_task])
def test_celery_makes_what_others_may_change(around: Any) -> None:
    app = app_of()
    assert not is_celery_asked(app)
    with around():
        assert is_celery_asked(app)
    assert not is_celery_asked(app)


def test_a_task_that_sends_is_the_parent_of_what_it_sends() -> None:
    app = app_of()
    with _recording() as tape, running_task():
        app.send_task("one", task_id="child")
    headers = tape.publications[0].options["headers"]
    assert (headers["parent_id"], headers["root_id"]) == ("parent", "root")


def test_more_kinds_than_are_kept_are_celerys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_MOST", 2)
    app = app_of()
    assert not is_celery_asked(app, "two")
    assert is_celery_asked(app, "three")
    assert not is_celery_asked(app, "two")


def test_it_says_when_and_where_it_was_made() -> None:
    app = app_of()
    for origin in ("before a fork", "after it"):
        before = time.time()
        with _recording() as tape:
            tape.origin = origin
            app.send_task("one", task_id="0")
        headers = tape.publications[0].options["headers"]
        assert headers["origin"] == origin
        assert before <= headers[PUBLISHED_AT] <= time.time()


def test_a_sample_is_not_changed_by_what_is_made_after_it() -> None:
    app = app_of()
    made: list[Publication] = []
    for number in range(3):
        with _recording() as tape:
            app.send_task("one", (number,), task_id=f"{number}")
        made += tape.publications
        made[-1].options["headers"]["x-mine"] = number
    assert [publication.options["headers"]["x-mine"] for publication in made] == [0, 1, 2]
    assert [publication.task_id for publication in made] == ["0", "1", "2"]
