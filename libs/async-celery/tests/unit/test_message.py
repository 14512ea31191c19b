"""Encoding: the fast way and the general way say the same, and what cannot be said is named."""

import bz2
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from amqp import serialization
from celery import Celery, signals
from celery.utils.saferepr import saferepr
from hypothesis import example, given
from hypothesis import strategies as st
from kombu import serialization as kombu_serialization
from kombu.message import Message
from kombu.utils.json import dumps, loads

from async_celery import amqp
from async_celery.errors import PayloadError
from async_celery.message import Encoded, Encoder, _encode_body, _encode_json
from async_celery.recording import CeleryRecorder
from async_celery.reprs import celery_repr
from async_celery.types import PUBLISHED_AT, Publication, TaskMessage


def recorder(**conf: Any) -> CeleryRecorder:
    app = Celery(broker="amqp://127.0.0.1:9", backend="redis://127.0.0.1:9", set_as_current=False)
    app.conf.update(conf)
    return CeleryRecorder(app, new_child_id=lambda: "child")


def encoder(max_body_bytes: int = 1 << 20, *, max_templates: int = 10, **conf: Any) -> Encoder:
    return Encoder(recorder=recorder(**conf), max_body_bytes=max_body_bytes, max_templates=max_templates)


RECORDER = recorder()
ENCODER = Encoder(recorder=RECORDER, max_body_bytes=1 << 20)


def task(*args: Any, **fields: Any) -> TaskMessage:
    return TaskMessage(task_id="the-id", name="add", args=args, queue="q", **{"kwargs": {}, **fields})


def payloads(encoded: Encoded) -> dict[int, bytes]:
    """Return what the frames of a message carry, by the type of the frame."""
    place, frames = encoded
    assert frames.startswith(place.frame)
    found: dict[int, bytes] = {}
    while frames:
        kind, channel, size = amqp._FRAME_HEAD.unpack_from(frames)
        assert channel == amqp.PUBLISHING
        assert size + 8 <= amqp.FRAME_MAX
        assert frames[size + 7] == 0xCE
        found[kind] = found.get(kind, b"") + frames[7 : size + 7]
        frames = frames[size + 8 :]
    return found


def decoded(encoded: Encoded) -> tuple[Mapping[str, Any], Mapping[str, Any], bytes]:
    """Return a message's properties, headers and body, as py-amqp reads them."""
    found = payloads(encoded)
    properties, end = serialization.decode_properties_basic(found[2], 12)
    assert end == len(found[2])
    body = found.get(3, b"")
    assert int.from_bytes(found[2][4:12]) == len(body)
    headers = properties.pop("application_headers")
    return properties, headers, body


class Point(NamedTuple):
    x: int
    y: int


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())  # with surrogates
    | st.sampled_from(["'", '"', "\\", "it's", "x" * 1019, "ä" * 1020, Colour.RED, Number.ONE])
    | st.sampled_from([Decimal("1.50"), UUID(int=1), datetime.now(UTC), date(2030, 1, 1), b"\xff", b"a"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.tuples(st.integers(), st.integers()).map(lambda pair: Point(*pair))
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=25,
)


@given(value=st.lists(VALUES).map(tuple) | st.dictionaries(st.text(), VALUES), levels=st.integers(0, 5))
@example(value=("x" * 1018,), levels=3)
@example(value=("x" * 1017,), levels=3)
@example(value=(1, "x" * 1014), levels=3)
@example(value=([], {}, ()), levels=1)
def test_reprs_are_celerys(value: Any, levels: int) -> None:
    expected = saferepr(value, 1024, levels or None)  # type: ignore[arg-type]  # as Celery calls it
    assert celery_repr(value, 1024, levels or None) == expected


def test_the_repr_of_something_huge_is_not_made() -> None:
    class Watched(list[Any]):
        pass

    seen = []

    class Value(int):
        def __str__(self) -> str:
            seen.append(1)
            return "1"

    celery_repr(Watched(Value() for _ in range(100_000)), 1024, 3)
    celery_repr([Value() for _ in range(100_000)], 1024, 3)
    assert len(seen) < 3000
    # Plain numbers are given up on as soon as there are too many.
    nested = [[[0] * 10_000] * 10_000] * 10_000
    assert len(celery_repr(nested, 1024, 3)) < 1100


@given(VALUES)
def test_json_is_kombus(value: Any) -> None:
    assert _encode_json(value) == dumps(value)


@given(args=VALUES, callbacks=VALUES, steps=st.lists(VALUES, max_size=3))
def test_the_json_of_a_chain_is_kombus(args: Any, callbacks: Any, steps: list[Any]) -> None:
    body = (args, {"a": args}, {"callbacks": callbacks, "errbacks": None, "chain": steps, "chord": None})
    assert _encode_body(body) == dumps(body)


ACCEPTED = {"application/json", "application/x-python-serialize"}


def first_of_chain(*steps: Any, args: Any = (), **options: Any) -> Publication:
    """Return the message that carries these steps."""
    with_steps = {**RECORDER.task(task()).options, **options}
    embed = {"callbacks": None, "errbacks": None, "chain": list(steps), "chord": None}
    return Publication(task_id="the-id", body=(args, {}, embed), options=with_steps)


@pytest.mark.parametrize(
    ("publication", "is_compressed"),
    [
        (first_of_chain(*[{"task": "add", "args": [n]} for n in range(200)]), True),
        (first_of_chain({"task": "add"}, args=("x" * 5000,)), True),
        (first_of_chain({"task": "add"}, args=("x" * 3000,)), False),
        (first_of_chain({"task": "add"}, args=("x" * 1_100_000,)), False),
        (first_of_chain(args=("x" * 5000,)), False),
        (first_of_chain({"task": "add"}, args=("x" * 5000,), serializer="pickle"), False),
    ],
    ids=["long", "large argument", "small", "too large", "no chain", "no JSON"],
)
def test_a_long_chain_is_compressed_and_kombu_reads_it(publication: Publication, is_compressed: bool) -> None:
    properties, headers, body = decoded(encoder(1 << 24).publication(publication))
    expected, theirs = publication.options["headers"], {**headers}
    assert (theirs.pop("compression", None) is not None) is is_compressed
    assert theirs == expected
    received: Any = Message
    read = received(body=body, headers=headers, accept=ACCEPTED, **properties).decode()
    assert loads(dumps(read)) == loads(dumps(publication.body))


def test_what_is_compressed_anyway_is_compressed_once() -> None:
    ours = encoder(task_compression="bzip2")
    publication = first_of_chain({"task": "add"}, args=("x" * 5000,), compression="bzip2")
    _, headers, body = decoded(ours.publication(publication))
    assert headers["compression"] == "application/x-bz2"
    assert bz2.decompress(body) == dumps(publication.body).encode()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 70_000])
@pytest.mark.parametrize("task_id", ["the-id", "täsk-\N{SNOWMAN}", "x" * 255])
def test_sizes_and_ids_of_any_length_are_told(size: int, task_id: str) -> None:
    message = task("ä" * size, kwargs={"ö": "\N{SNOWMAN}" * size})._replace(task_id=task_id)
    fast = decoded(ENCODER.task(message))
    general = decoded(ENCODER.publication(RECORDER.task(message)))
    same = {"expires": None, PUBLISHED_AT: None}
    assert (fast[0], {**fast[1], **same}, fast[2]) == (general[0], {**general[1], **same}, general[2])


@given(
    args=st.lists(VALUES, max_size=3),
    kwargs=st.dictionaries(st.text(), VALUES, max_size=3),
    expires=st.floats(0.1, 1e6),
    expiration=st.booleans(),
    priority=st.none() | st.integers(0, 255),
    headers=st.dictionaries(st.text("abc", min_size=1), st.text() | st.integers(0, 9) | st.none(), max_size=2),
)
def test_both_ways_give_the_same_message(**drawn: Any) -> None:
    same = {"expires": None, PUBLISHED_AT: None}
    message = TaskMessage(task_id="the-id", name="a.täsk", queue="q", **drawn)
    fast = decoded(ENCODER.task(message))
    general = decoded(ENCODER.publication(RECORDER.task(message)))
    assert ENCODER._templates["a.täsk", "q"] is not None
    assert fast[0] == general[0]
    apart = datetime.fromisoformat(fast[1]["expires"]) - datetime.fromisoformat(general[1]["expires"])
    assert abs(apart) < timedelta(seconds=2)
    assert abs(fast[1][PUBLISHED_AT] - general[1][PUBLISHED_AT]) < 2
    assert {**fast[1], **same} == {**general[1], **same}
    assert fast[2] == general[2]


def test_the_times_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = encoder()
    for now in (1e9, 1e9 + 0.0005, 1e9 + 60, 1e9 - 3600):
        monkeypatch.setattr("async_celery.message.time", lambda now=now: now)
        for lifetime in (10.0, 20.0):
            _, headers, _ = decoded(ours.task(task(expires=lifetime)))
            at = datetime.fromisoformat(headers["expires"]).timestamp()
            assert at == pytest.approx(now + lifetime, abs=0.001)
            assert headers[PUBLISHED_AT] == pytest.approx(now, abs=0.001)


@pytest.mark.parametrize(
    "conf",
    [
        {"task_protocol": 1},
        {"task_compression": "gzip"},
        {"task_routes": [lambda name, args, kwargs, options, task=None, **kw: {"priority": 5}]},
    ],
    ids=str,
)
def test_there_is_no_template_where_it_would_not_do(conf: dict[str, Any]) -> None:
    ours = encoder(**conf)
    message = task(1)
    encoded = decoded(ours.task(message))
    assert list(ours._templates.values()) == [None]
    assert encoded[0]["content_type"] == "application/json"


def test_another_json_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    kombu: Any = kombu_serialization
    name, encoding, _ = kombu.registry._encoders["json"]
    monkeypatch.setitem(kombu.registry._encoders, "json", kombu.codec(name, encoding, lambda value: "another"))
    assert decoded(encoder().task(task(1)))[2] == b"another"


def test_signal_handlers_are_called_for_every_message_and_for_nothing_else() -> None:
    ours = encoder()
    seen: list[str] = []

    def note(headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers["id"])
        headers["mark"] = len(seen)

    signals.before_task_publish.connect(note)
    try:
        marks = [decoded(ours.task(task()._replace(task_id=f"{n}")))[1]["mark"] for n in range(3)]
    finally:
        signals.before_task_publish.disconnect(note)
    assert seen == ["0", "1", "2"]
    assert marks == [1, 2, 3]
    assert "mark" not in decoded(ours.task(task()))[1]


def test_names_that_a_caller_makes_up_do_not_fill_the_memory() -> None:
    ours = encoder(max_templates=2)
    for number in range(4):
        _, headers, _ = decoded(ours.task(task()._replace(name=f"task-{number}")))
        assert headers["task"] == f"task-{number}"
    assert len(ours._templates) == 2


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"args": (1, lambda: 0)}, "argument 2 "),
        ({"kwargs": {"ok": 1, "bad": lambda: 0}}, "argument 'bad' "),
        ({"headers": {"ok": 1, "bad": object()}}, "header 'bad' "),
        ({"headers": {"bad": 2**64}}, "header 'bad' "),
        ({"headers": {"bad": [{"nested": float("nan")}]}}, "header 'bad' "),
        ({"headers": {"x" * 300: 1}}, "header 'xxx"),
        ({"task_id": "x" * 256}, "the message "),
        ({"priority": 256}, "the message "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_encoded_is_named(fields: dict[str, Any], fault: str, serializer: str) -> None:
    message = task(serializer=serializer)._replace(**fields)
    with pytest.raises(PayloadError, match=r"cannot (be serialised|become)") as caught:
        ENCODER.task(message)
    assert str(caught.value).startswith(fault)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "value", [object(), 10**5000, CIRCLE, {(1, 2): 3}], ids=["object", "long", "circle", "key"]
)
def test_what_json_cannot_say_is_named(value: Any) -> None:
    with pytest.raises(PayloadError, match=r"^argument 1 cannot be serialised: ."):
        ENCODER.task(task(value))
    with pytest.raises(PayloadError, match=r"^argument 'x' cannot be serialised: ."):
        ENCODER.task(task(kwargs={"x": value}))


def test_text_that_is_not_unicode_travels_as_celery_sends_it() -> None:
    _, headers, body = decoded(ENCODER.task(task("\ud800")))
    assert body.startswith(b'[["\\ud800"]')
    assert headers["argsrepr"] == "('\ud800',)"


def test_what_is_too_large_is_refused() -> None:
    ours = encoder(1000)
    ours.task(task("x" * 900))
    with pytest.raises(PayloadError, match="1000 are allowed"):
        ours.task(task("x" * 1000))
    with pytest.raises(PayloadError, match="1000 are allowed"):
        ours.task(task("x" * 1000, serializer="pickle"))
    with pytest.raises(PayloadError, match="headers of"):
        ours.task(task(headers={"x": "x" * amqp.FRAME_MAX}))


def test_long_bodies_are_split() -> None:
    encoded = encoder(1 << 24).task(task("x" * 500_000))
    assert len(payloads(encoded)[3]) > 500_000
    _, _, body = decoded(encoded)
    assert body.count(b"x") == 500_000


def test_an_empty_body_has_no_frame() -> None:
    publication = Publication(
        task_id=None,
        body=b"",
        options={"exchange": "e", "routing_key": "k", "serializer": "raw"},
        mandatory=False,
    )
    encoded = ENCODER.publication(publication)
    assert 3 not in payloads(encoded)
    assert encoded[0].exchange == "e"
