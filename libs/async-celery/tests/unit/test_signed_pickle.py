"""Signed pickle: what is ours comes back as it was, and nothing else is so much as unpickled."""

import ast
import builtins
import copyreg
import functools
import json
import os
import pickle
import re
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain, chord
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError

from async_celery import signed_pickle
from async_celery.errors import PayloadError
from async_celery.message import Encoder
from async_celery.recording import CeleryRecorder
from async_celery.signed_pickle import (
    CONTENT_TYPE,
    SERIALIZER,
    EnvelopeRefused,
    KeyRing,
    SignedPickle,
    SigningAMQP,
    TaskBody,
    check_envelope,
    register,
)
from async_celery.testing import FakeCelery
from async_celery.types import TaskMessage

KOMBU: Any = serialization
KEY, OTHER_KEY = b"a key for tests of pickle", b"another key for the same"


@dataclass(frozen=True, kw_only=True)
class Point:
    x: Decimal
    seen: frozenset[date] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class SlottedPoint:
    x: int


class Stranger:
    """Nobody's class: registered nowhere."""


OURS = SignedPickle(KeyRing(signing=KEY), classes=(Point, SlottedPoint))


def body(*args: Any, expires: float | None = None, **kwargs: Any) -> TaskBody:
    return TaskBody.of((args, kwargs, {}), task_id="the-id", name="a.task", expires=expires)


def forged(signed: SignedPickle, pickled: bytes, **fields: Any) -> str:
    """Return an envelope with a genuine MAC around any bytes, as only a thief of the key could make it."""
    key_id = signed._signing_key_id
    envelope = signed_pickle._Envelope(
        **{
            "kid": key_id,
            "issued": time.time(),
            "expires": time.time() + 60,
            "id": "the-id",
            "name": "a.task",
            "content_type": CONTENT_TYPE,
            "pickle": b64encode(pickled).decode(),
            **fields,
        }
    )
    return envelope.sealed_with(signed._keys[key_id])


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
    | st.decimals(allow_nan=False)
    | st.uuids(allow_nil=True)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=-3))))
    | st.frozensets(st.integers())
    | st.sets(st.text())
    | st.builds(Point, x=st.decimals(allow_nan=False), seen=st.frozensets(st.dates()))
    | st.builds(SlottedPoint, x=st.integers())
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.dates(), inner),
    max_leaves=10,
)


@given(args=st.lists(VALUES, max_size=3), kwargs=st.dictionaries(st.text(), VALUES, max_size=3))
def test_arguments_come_back_as_they_were(args: list[Any], kwargs: dict[str, Any]) -> None:
    sealed = OURS.seal(TaskBody.of((args, kwargs, {}), task_id="ä-id", name="a.täsk", expires=None))
    opened = OURS.open(sealed.encode())
    assert tuple(opened) == (args, kwargs, {})
    assert (opened.task_id, opened.name) == ("ä-id", "a.täsk")
    for given_value, received in zip(args, opened[0], strict=True):
        assert type(given_value) is type(received)


def test_the_envelope_is_what_the_design_says() -> None:
    before = time.time()
    envelope = json.loads(OURS.seal(body(1, expires=before + 5)))
    assert list(envelope) == ["kid", "issued", "expires", "id", "name", "content_type", "pickle", "mac"]
    assert before <= envelope["issued"] <= time.time()
    assert envelope["expires"] == before + 5
    assert (envelope["id"], envelope["name"], envelope["content_type"]) == ("the-id", "a.task", CONTENT_TYPE)
    assert len(bytes.fromhex(envelope["mac"])) == 32
    assert KEY.decode() not in json.dumps(envelope)


class TestTampering:
    """Only whoever has the key can make an envelope; every byte of one counts."""

    @pytest.fixture(autouse=True)
    def nothing_is_unpickled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unpickle(*_: Any) -> None:
            raise AssertionError("it was unpickled")

        monkeypatch.setattr(SignedPickle, "_unpickled", unpickle)

    @given(place=st.integers(0), bits=st.integers(1, 255))
    def test_any_change_of_any_byte_is_refused(self, place: int, bits: int) -> None:
        sealed = bytearray(SEALED)
        sealed[place % len(sealed)] ^= bits
        with pytest.raises(EnvelopeRefused):
            OURS.open(bytes(sealed))

    def test_every_byte_counts_and_so_does_every_other_spelling(self) -> None:
        fields = json.loads(SEALED)
        for place in range(len(SEALED)):
            for change in (b"", SEALED[place : place + 1] * 2, bytes((SEALED[place] ^ 0x20,))):
                with pytest.raises(EnvelopeRefused):
                    OURS.open(SEALED[:place] + change + SEALED[place + 1 :])
        others = (
            json.dumps(fields),
            json.dumps(dict(reversed(fields.items())), separators=(",", ":")),
            json.dumps({**fields, "extra": 1}, separators=(",", ":")),
            SEALED.decode().replace(fields["mac"], fields["mac"].upper()),
            SEALED.decode().replace("the-id", "th\\u0065-id"),
            SEALED.decode().replace('{"kid"', '{"id":"x","kid"'),
            SEALED.decode() + " ",
        )
        for spelling in others:
            with pytest.raises(EnvelopeRefused):
                OURS.open(spelling)

    @pytest.mark.parametrize("field", ["kid", "issued", "expires", "id", "name", "content_type", "pickle", "mac"])
    def test_every_field_is_signed(self, field: str) -> None:
        fields = json.loads(SEALED)
        other_body = TaskBody.of(((2,), {}, {}), task_id="another-id", name="b.task", expires=time.time() + 100)
        another = json.loads(OURS.seal(other_body))
        fields[field] = "other" if field in ("kid", "content_type") else another[field]
        with pytest.raises(EnvelopeRefused):
            OURS.open(json.dumps(fields, separators=(",", ":")))

    @given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")))
    def test_anything_else_is_refused(self, data: bytes) -> None:
        with pytest.raises(EnvelopeRefused):
            OURS.open(data)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"[" * 100_000,
            b"null",
            b"[]",
            b'{"mac":1}',
            b"9" * 5000,
            pickle.dumps(1),
            json.dumps({**json.loads(b'{"kid":[]}'), "mac": ""}).encode(),
            b"\xff\xfe",
            "\ud800",
        ],
    )
    def test_no_envelope_is_refused_as_such(self, data: bytes | str) -> None:
        with pytest.raises(EnvelopeRefused, match="no envelope"):
            OURS.open(data)

    @pytest.mark.parametrize("kid", [[], {}, None, 1, "é", "\ud800"])
    def test_a_key_id_of_any_type_is_refused(self, kid: Any) -> None:
        fields = {**json.loads(SEALED), "kid": kid}
        with pytest.raises(EnvelopeRefused):
            OURS.open(json.dumps(fields, separators=(",", ":")))

    def test_an_unknown_key_is_refused(self) -> None:
        with pytest.raises(EnvelopeRefused, match="a key that is not accepted"):
            OURS.open(SignedPickle(KeyRing(signing=OTHER_KEY)).seal(body(1)))

    def test_a_key_id_lends_no_authority_to_another_key(self) -> None:
        fields = json.loads(SignedPickle(KeyRing(signing=OTHER_KEY)).seal(body(1)))
        fields["kid"] = json.loads(SEALED)["kid"]
        with pytest.raises(EnvelopeRefused, match="signature does not match"):
            OURS.open(json.dumps(fields, separators=(",", ":")))

    @pytest.mark.parametrize("expires", [0, 1e9])
    def test_what_is_stale_is_refused(self, expires: float) -> None:
        with pytest.raises(EnvelopeRefused, match="stale"):
            OURS.open(OURS.seal(body(1, expires=expires)))

    def test_it_is_stale_at_the_moment_when_it_expires(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sealed = OURS.seal(body(1, expires=1000.0))
        monkeypatch.setattr("async_celery.signed_pickle.time.time", lambda: 1000.0)
        with pytest.raises(EnvelopeRefused, match="stale"):
            OURS.open(sealed)
        monkeypatch.setattr("async_celery.signed_pickle.time.time", lambda: 999.9)
        with pytest.raises(AssertionError, match="unpickled"):
            OURS.open(sealed)

    def test_another_content_type_is_refused(self) -> None:
        with pytest.raises(EnvelopeRefused, match="another content type"):
            OURS.open(forged(OURS, b"", content_type="application/x-python-serialize"))


SEALED = OURS.seal(body(1, expires=time.time() + 3600)).encode()


def test_a_message_without_an_expiry_gets_one() -> None:
    envelope = json.loads(SignedPickle(KeyRing(signing=KEY), lifetime=10).seal(body(1)))
    assert envelope["expires"] == pytest.approx(envelope["issued"] + 10)


def test_keys_change_without_a_message_being_refused() -> None:
    old = SignedPickle(KeyRing(signing=KEY))
    between = SignedPickle(KeyRing(signing=KEY, accepted=(OTHER_KEY,)))
    new = SignedPickle(KeyRing(signing=OTHER_KEY, accepted=(KEY,)))
    for sender, receiver in ((old, between), (between, new), (new, between)):
        assert receiver.open(sender.seal(body(1)))[0] == (1,)
    with pytest.raises(EnvelopeRefused):
        SignedPickle(KeyRing(signing=OTHER_KEY)).open(old.seal(body(1)))


def test_keys_are_long_and_not_shown() -> None:
    assert KEY.decode() not in repr(KeyRing(signing=KEY, accepted=(KEY,)))
    for keys in ({"signing": b"x" * 15}, {"signing": KEY, "accepted": (b"",)}):
        with pytest.raises(ValueError, match="16 bytes"):
            KeyRing(**keys)


class Gadget:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def gadgets(mark: Path) -> Iterator[tuple[str, bytes]]:
    """Yield pickles that make the file `mark`, in all ways that come to mind."""
    touch = f"open({str(mark)!r}, 'w').close()"
    shell = f"touch {mark}"
    values: dict[str, Any] = {
        "os.system": Gadget(os.system, shell),
        "subprocess.Popen": Gadget(subprocess.run, ["touch", str(mark)]),
        "eval": Gadget(builtins.eval, touch),
        "exec": Gadget(builtins.exec, touch),
        "open": Gadget(builtins.open, str(mark), "w"),
        "Path.touch": Gadget(Path.touch, mark),
        "partial": Gadget(functools.partial(os.system, shell)),
        "in a set": {Gadget(os.system, shell)},
        "as a key": {Gadget(os.system, shell): 1},
        "deep": ((), {"x": [Gadget(os.system, shell)]}, {}),
        "as a state": Gadget(Stranger, Gadget(os.system, shell)),
    }
    for name, value in values.items():
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            yield f"{name}, protocol {protocol}", pickle.dumps(value, protocol)
    # As attributes of what is allowed, and of modules that are loaded anyway.
    path, command = str(mark).encode(), shell.encode()
    by_hand = {
        "dotted": b"\x80\x04\x8c\x08datetime\x8c\x0csys.modules\x93.",
        "dotted in an allowed class": b"\x80\x04\x8c\x08builtins\x8c\x0fdict.__class__\x93\x8c\x01xR.",
        "getattr": b"cbuiltins\ngetattr\n(cos\nopen\nVx\ntR.",
        "posix.system": b"cposix\nsystem\n(V" + command + b"\ntR.",
        "nt.system": b"cnt\nsystem\n(V" + command + b"\ntR.",
        "inst": b"(V" + command + b"\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nV" + command + b"\no.",
        "newobj": b"\x80\x02cio\nFileIO\n(V" + path + b"\nVw\nt\x81.",
        "copyreg": b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.",
        "persistent id": b"Pos\n.",
        "persistent id, binary": b"\x80\x02U\x02osQ.",
        "extension": b"\x80\x02\x82\x01.",
        "import": b"cantigravity\nfly\n.",
    }
    yield from by_hand.items()


def test_nothing_that_could_act_is_unpickled_even_when_it_is_signed(tmp_path: Path) -> None:
    mark = tmp_path / "it ran".replace(" ", "-")
    count = 0
    for name, pickled in gadgets(mark):
        with pytest.raises(EnvelopeRefused, match="cannot be read"):
            OURS.open(forged(OURS, pickled))
        assert not mark.exists(), name
        count += 1
    assert count > 70
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "eval", "exec", "Path.touch", "deep"])
def test_the_same_gadgets_do_act_in_a_plain_pickle(tmp_path: Path, name: str) -> None:
    """Or the test above would show nothing."""
    mark = tmp_path / "it-ran"
    pickle.loads(dict(gadgets(mark))[f"{name}, protocol 4"])  # noqa: S301 (a test of what it does)
    assert mark.exists()


def test_extensions_of_pickle_open_no_door() -> None:
    """An extension code that has been used once is found again without `find_class`: not by us."""
    copyreg.add_extension("os", "system", 1)
    try:
        with pytest.raises(EnvelopeRefused, match="cannot be read"):
            OURS.open(forged(OURS, b"\x80\x02\x82\x01."))
    finally:
        copyreg.remove_extension("os", "system", 1)


@pytest.mark.parametrize(
    "value", [1, (), ((), {}), ((), {}, {}, {}), ("abc", {}, {}), ((), [], {}), ((), {}, None)]
)
def test_what_is_no_body_of_a_task_is_refused(value: Any) -> None:
    with pytest.raises(EnvelopeRefused, match="no task's body"):
        OURS.open(forged(OURS, pickle.dumps(value)))


@pytest.mark.parametrize(
    "value", [Stranger(), Stranger, os.system, lambda: 0, os, functools.partial(print), b"".find]
)
def test_the_sender_is_told_what_the_receiver_would_refuse(value: Any) -> None:
    with pytest.raises((pickle.PicklingError, TypeError)):
        OURS.seal(body([value]))


def test_a_subclass_of_an_allowed_class_is_another_class() -> None:
    class Day(date):
        pass

    with pytest.raises(pickle.PicklingError, match="Day is none of the classes"):
        OURS.seal(body(Day(2030, 1, 1)))


class TestSerializer:
    """What kombu and Celery make of it."""

    @pytest.fixture(autouse=True)
    def registered(self) -> Iterator[None]:
        register(OURS, opens=True)
        yield
        KOMBU.unregister(SERIALIZER)

    def test_it_is_read_only_where_it_is_named(self) -> None:
        content_type, encoding, sealed = KOMBU.dumps(body(1), SERIALIZER)
        assert content_type == CONTENT_TYPE
        assert KOMBU.loads(sealed, content_type, encoding, accept=[CONTENT_TYPE])[0] == (1,)
        for accept in (None, ["application/json"]):
            with pytest.raises(ContentDisallowed):
                KOMBU.loads(sealed, content_type, encoding, accept=accept)

    def test_a_process_that_only_sends_has_no_decoder(self) -> None:
        register(OURS, opens=False)
        _, encoding, sealed = KOMBU.dumps(body(1), SERIALIZER)
        assert KOMBU.loads(sealed, CONTENT_TYPE, encoding, accept=[CONTENT_TYPE]) == sealed

    def test_only_tasks_are_signed(self) -> None:
        with pytest.raises(EncodeError, match="SigningAMQP"):
            KOMBU.dumps(((), {}, {}), SERIALIZER)

    def test_what_is_refused_is_a_decode_error_that_says_why(self) -> None:
        with pytest.raises(DecodeError, match="no envelope"):
            KOMBU.loads(b"x", CONTENT_TYPE, "utf-8", accept=[CONTENT_TYPE])

    def message(self, **options: Any) -> Any:
        app = Celery(broker="memory://", set_as_current=False, amqp=SigningAMQP)
        return app.amqp.as_task_v2("the-id", "a.task", (Decimal(1),), **options)

    def test_celery_s_own_messages_are_signed_for_their_task(self) -> None:
        sealed = KOMBU.dumps(self.message(serializer=SERIALIZER).body, SERIALIZER)[2]
        envelope = json.loads(sealed)
        assert (envelope["id"], envelope["name"]) == ("the-id", "a.task")

    @pytest.mark.parametrize(
        ("options", "expires"),
        [
            ({"expires": datetime(2100, 1, 1, tzinfo=UTC)}, datetime(2100, 1, 1, tzinfo=UTC)),
            ({"expires": "2100-01-01T00:00:00Z"}, datetime(2100, 1, 1, tzinfo=UTC)),
            ({"expires": "2100-01-01T00:00:00"}, datetime(2100, 1, 1, tzinfo=UTC)),  # as Celery's worker reads it
            ({"headers": {"expires": "2100-01-01T00:00:00Z"}}, datetime(2100, 1, 1, tzinfo=UTC)),
        ],
    )
    def test_the_envelope_expires_with_its_message(self, options: dict[str, Any], expires: datetime) -> None:
        made = self.message(serializer=SERIALIZER, **options).body
        assert made.expires == expires.timestamp()

    def test_other_serializers_are_left_alone(self) -> None:
        assert type(self.message(serializer="json").body) is tuple
        assert type(self.message().body) is tuple

    def test_canvases_travel_inside(self) -> None:
        """As dicts, which is what JSON makes of them, too."""
        app = Celery(broker="memory://", set_as_current=False, amqp=SigningAMQP)
        step = app.signature("a.task", args=(Decimal("1.50"),), link=app.signature("callback"))
        whole = chord([step, step], app.signature("body", app=app), app=app)
        made = app.amqp.as_task_v2("the-id", "a.task", (step,), chain=[step], chord=whole, serializer=SERIALIZER)
        opened = OURS.open(OURS.seal(made.body))
        assert opened[0] == (step,)
        assert opened[2] == made.body[2]
        assert type(opened[2]["chord"]) is dict
        assert type(opened[2]["chord"]["kwargs"]["header"][0]) is dict


@dataclass(frozen=True)
class Message:
    """What `check_envelope` reads of kombu's."""

    payload: Any
    headers: dict[str, Any]
    accept: set[str] | None
    content_type: str = "application/json"


class TestCheckEnvelope:
    genuine = Message(
        payload=body(1),
        headers={"id": "the-id", "task": "a.task"},
        accept={CONTENT_TYPE},
        content_type=CONTENT_TYPE,
    )

    def test_the_task_it_was_signed_for_is_let_through(self) -> None:
        check_envelope(self.genuine)

    @pytest.mark.parametrize("headers", [{"id": "another"}, {"task": "b.task"}, {"id": None}, {"task": ""}])
    def test_another_task_is_not(self, headers: dict[str, Any]) -> None:
        with pytest.raises(EnvelopeRefused, match=r"signed for a\.task\[the-id\]"):
            check_envelope(replace(self.genuine, headers={**self.genuine.headers, **headers}))
        with pytest.raises(EnvelopeRefused):
            check_envelope(replace(self.genuine, headers={}))

    @pytest.mark.parametrize("content_type", ["application/data", "application/text", "application/json"])
    def test_what_is_unsigned_passes_only_where_nothing_is_signed(self, content_type: str) -> None:
        unsigned = replace(self.genuine, payload=((), {}, {}), content_type=content_type)
        with pytest.raises(EnvelopeRefused, match=f"not signed: its content type is {content_type}"):
            check_envelope(unsigned)
        check_envelope(replace(unsigned, accept={"application/json"}))


class TestClient:
    """What the asyncio client sends."""

    @pytest.fixture(autouse=True)
    def registered(self) -> Iterator[None]:
        register(OURS, opens=False)
        yield
        KOMBU.unregister(SERIALIZER)

    def encoder(self) -> Encoder:
        app = Celery(broker="amqp://127.0.0.1:9", backend="redis://127.0.0.1:9", set_as_current=False)
        return Encoder(recorder=CeleryRecorder(app, new_child_id=lambda: "child"), max_body_bytes=1 << 20)

    def message(self, *args: Any, **kwargs: Any) -> TaskMessage:
        return TaskMessage("the-id", "a.task", args, kwargs, "q", SERIALIZER, 60.0)

    def test_it_signs(self) -> None:
        _, frames = self.encoder().task(self.message(Point(x=Decimal(1)), on=date(2030, 1, 1)))
        start = frames.index(b'{"kid"')
        opened = OURS.open(frames[start : frames.index(b"}", start) + 1])
        assert tuple(opened[:2]) == ((Point(x=Decimal(1)),), {"on": date(2030, 1, 1)})
        assert (opened.task_id, opened.name) == ("the-id", "a.task")
        assert opened.expires == pytest.approx(time.time() + 60, abs=5)

    def test_what_cannot_be_signed_is_named(self) -> None:
        with pytest.raises(PayloadError, match=r"^argument 'bad' cannot be serialised: .*Stranger is none of"):
            self.encoder().task(self.message(Decimal(1), ok=1, bad=Stranger()))

    async def test_it_signs_every_message_of_a_workflow(self) -> None:
        recorder = CeleryRecorder(
            Celery(broker="amqp://127.0.0.1:9", backend="redis://127.0.0.1:9", set_as_current=False),
            new_child_id=iter(map(str, range(100))).__next__,
        )
        step = recorder.app.signature("a.task", (date(2030, 1, 1),), options={"serializer": SERIALIZER})
        deadline = datetime.now(UTC) + timedelta(minutes=1)
        recording = await recorder.canvas(
            chord([step, chain(step, step, app=recorder.app)], step, app=recorder.app),
            workflow_id="the-whole",
            accepted_at=datetime.now(UTC),
            deadline=deadline,
        )
        opened = [OURS.open(OURS.seal(publication.body)) for publication in recording.publications]
        assert [each.task_id for each in opened] == [each.task_id for each in recording.publications]
        assert {each.expires for each in opened} == {deadline.timestamp()}
        assert {each[0] for each in opened} == {(date(2030, 1, 1),)}
        assert opened[0][2]["chord"]["args"] == (date(2030, 1, 1),)
        assert opened[1][2]["chain"][0]["args"] == (date(2030, 1, 1),)

    async def test_the_fake_takes_it_as_it_is(self) -> None:
        async with FakeCelery() as fake:
            await fake.send_task("a.task", (Point(x=Decimal(1)),), queue="q", serializer=SERIALIZER)
            fake.assert_sent("a.task", (Point(x=Decimal(1)),))
            with pytest.raises(PayloadError, match="Stranger"):
                await fake.send_task("a.task", (Stranger(),), queue="q", serializer=SERIALIZER)


@dataclass(frozen=True)
class Invoice:
    due: date
    total: Decimal


async def test_the_readmes_example_runs() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "SignedPickle(" in code)
    names: dict[str, Any] = {**vars(signed_pickle), "Invoice": Invoice, "secret": KEY, "date": date}
    try:
        async with FakeCelery() as names["client"]:
            code = compile(example, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            await eval(code, names)  # noqa: S307 (our own text)
            names["client"].assert_sent("pay", (Invoice(date(2030, 1, 31), Decimal("19.99")),), queue="invoices")
    finally:
        KOMBU.unregister(SERIALIZER)


def test_every_class_that_is_always_allowed_only_holds_data() -> None:
    """What may be called by a pickle that is signed: nothing of these acts on anything but itself."""
    assert set(signed_pickle.PLAIN_CLASSES) == {
        bytearray, complex, dict, frozenset, set,
        date, datetime, time_of_day, timedelta, timezone, Decimal, UUID,
    }  # fmt: skip
