"""Plain chains: what is made of them at once is what Celery would make of them."""

import json
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from unittest import mock

import pytest
from celery import Celery, group
from celery import canvas as celery_canvas
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps

from async_celery import recording
from async_celery.plain_chain import freeze_plain_chain
from async_celery.recording import CeleryRecorder
from async_celery.types import PUBLISHED_AT

# Their type stubs are older than they are.
make_chain: Any = celery_canvas._chain
chunks: Any = celery_canvas.chunks

NOW = datetime(2030, 1, 1, tzinfo=UTC)
APP = Celery(broker="amqp://127.0.0.1:9", backend="redis://127.0.0.1:9", set_as_current=False)
APP.conf.update(task_default_queue="q", task_routes={"routed.*": {"queue": "elsewhere"}})

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "queue": st.sampled_from(["q", "other"]),
        "routing_key": st.just("key"),
        "priority": st.none() | st.integers(0, 9),
        "countdown": st.integers(1, 99) | st.floats(1, 99),
        "expires": st.integers(1, 99) | st.just("2030-01-01T00:00:30+00:00"),
        "serializer": st.just("json"),
        "ignore_result": st.booleans(),
        "time_limit": st.integers(1, 9),
        "shadow": st.just("named"),
        "task_id": st.just("of an earlier run"),
        "reply_to": st.just("somebody"),
        "headers": st.just({"mine": 1}),
        "link": st.just([APP.signature("linked")]),
        "link_error": st.just([APP.signature("failed")]),
    },
)


@st.composite
def tasks(draw: st.DrawFn) -> Any:
    made = APP.signature(
        draw(st.sampled_from(["first", "second", "routed.third"])),
        args=draw(st.lists(VALUES, max_size=2).map(tuple)),
        kwargs=draw(st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2)),
        options=draw(OPTIONS),
        immutable=draw(st.booleans()),
    )
    return json.loads(dumps(made)) if draw(st.integers(0, 5)) == 0 else made


def chain(*steps: Any) -> Any:
    """Return a chain of these steps and no others; Celery's `chain` would fold them, or return the only one."""
    return make_chain(list(steps), app=APP)


def recorded(canvas: Any, *, plainly: bool) -> Any:
    ids = count()
    recorder = CeleryRecorder(APP, new_child_id=lambda: f"child-{next(ids)}")
    freeze = freeze_plain_chain if plainly else lambda *_, **__: None
    with mock.patch.object(recording, "freeze_plain_chain", freeze), mock.patch.object(APP, "now", lambda: NOW):
        made = recorder._record(canvas, "whole", NOW, NOW + timedelta(hours=1))
    options = [dict(publication.options) for publication in made.publications]
    for each in options:
        headers = each["headers"]
        del headers[PUBLISHED_AT]
        # When a countdown is over depends on when it began.
        if headers["eta"]:
            headers["eta"] = "soon"
        if headers["expires"] and "2030" not in headers["expires"]:
            headers["expires"] = "later"
    bodies = [json.loads(dumps(publication.body)) for publication in made.publications]
    return made.record, made.calls, bodies, options


@given(steps=st.lists(tasks(), min_size=1, max_size=5))
def test_it_makes_what_celery_makes(steps: list[Any]) -> None:
    whole = chain(*steps)
    theirs, ours = recorded(whole, plainly=False), recorded(whole, plainly=True)
    reply_to = [options.pop("reply_to") for options in (*theirs[3], *ours[3])]
    assert len(set(map(type, reply_to))) == 1
    assert without_threads(ours) == without_threads(theirs)


def without_threads(made: Any) -> Any:
    """Drop which recorder's thread an answer is for: each has its own."""
    record, calls, bodies, options = made
    for body in bodies:
        for step in body[2]["chain"] or []:
            assert isinstance(step["options"].pop("reply_to"), str)
    return record, calls, bodies, options


def frozen(canvas: Any) -> Any:
    ids = count()
    return freeze_plain_chain(
        canvas, APP, workflow_id="whole", expires="2030", new_child_id=lambda: f"child-{next(ids)}"
    )


def step(**options: Any) -> Any:
    return APP.signature("step", options=options)


def test_most_chains_are_plain() -> None:
    assert frozen(chain(step(), step(queue="other"), step(countdown=3.0))) is not None
    assert frozen(json.loads(dumps(chain(step(), step())))) is not None


@pytest.mark.parametrize(
    "canvas",
    [
        step(),
        group(step(), step(), app=APP),
        chain(step()),
        chain(step(), group(step(), step(), app=APP)),
        chain(step(), step()).set(queue="other"),
        chain(step(), step(link=[step()])),
        chain(step(), step(headers={"mine": 1})),
        chain(step(), APP.signature("celery.map", subtask_type="map")),
        {"task": "celery.chain", "subtask_type": "chain", "args": (), "kwargs": {"tasks": []}, "options": {}},
        chain(step(), chunks(step(), [(1,), (2,)], 1, app=APP)),
        "no canvas",
    ],
    ids=repr,
)
def test_all_else_is_left_to_celery(canvas: Any) -> None:
    assert frozen(canvas) is None


def test_what_it_is_made_of_is_left_as_it_was() -> None:
    whole = chain(step(queue="a"), step(queue="b"))
    before = json.loads(dumps(whole))
    assert frozen(whole) is not None
    assert json.loads(dumps(whole)) == before
