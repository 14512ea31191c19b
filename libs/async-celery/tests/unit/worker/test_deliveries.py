"""Messages that are read at once: py-amqp, which has written them, reads the same, or they are left to it."""

import math
import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.basic_message import Message
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps, loads
from hypothesis import given
from hypothesis import strategies as st

from async_celery.worker import deliveries
from async_celery.worker.deliveries import Delivery, UncommonError, next_delivery

HEARTBEAT = struct.pack(">BHIB", 8, 0, 0, 0xCE)
ADDRESS = ("None2", 7, True, "", "queue of tasks")


def delivered(
    body: bytes, address: tuple[Any, ...] = ADDRESS, *, frame_max: int = 131072, **properties: Any
) -> bytes:
    """What the broker sends."""
    written = []
    connection: Any = SimpleNamespace(frame_max=frame_max, bytes_sent=0)
    write = frame_writer(connection, SimpleNamespace(write=lambda data: written.append(bytes(data))))
    write(1, 3, (60, 60), dumps("sLbss", address), Message(body, **properties))
    return b"".join(written)


def read_by_py_amqp(data: bytes) -> Delivery:
    read: list[Delivery] = []

    def take(channel: int, _: Any, arguments: bytes, message: Any) -> None:
        (tag, number, redelivered, exchange, key), _ = loads("sLbss", arguments, 4)
        read.append(Delivery(channel, tag, number, redelivered, exchange, key, message.properties, message.body))

    handle = frame_handler(SimpleNamespace(bytes_recv=0), take)
    at = 0
    while at < len(data):
        kind, channel, size = struct.unpack_from(">BHI", data, at)
        handle((kind, channel, data[at + 7 : at + 7 + size]))
        at += 8 + size
    (one,) = read
    return one


# As Celery's clients write them.
HEADERS: dict[str, Any] = {
    "lang": "py",
    "task": "sum_up",
    "id": "0191f5c4-6f0b-8000-9d5e-a3a1c0ffee00",
    "shadow": None,
    "eta": None,
    "expires": "2026-11-23T19:34:02.505766+00:00",
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "root_id": "0191f5c4-6f0b-8000-9d5e-a3a1c0ffee00",
    "parent_id": None,
    "argsrepr": "('élan', 1)",
    "kwargsrepr": "{}",
    "origin": "gen1@host",
    "ignore_result": False,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
    "x-published-at": 1795460042.505766,
}
COMMON: dict[str, Any] = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "application_headers": HEADERS,
    "delivery_mode": 2,
    "priority": 0,
    "correlation_id": HEADERS["id"],
    "reply_to": "0191f5c4",
    "expiration": "86400000",
    "message_id": HEADERS["id"],
}


def test_a_message_of_celerys_clients_is_read() -> None:
    data = delivered(b"[[1], {}, {}]", **COMMON)
    found, end = next_delivery(HEARTBEAT + data + HEARTBEAT, len(HEARTBEAT)) or (None, 0)
    assert found == read_by_py_amqp(data)
    assert found is not None
    assert found.properties == COMMON
    assert (found.channel, found.consumer_tag, found.delivery_tag, found.redelivered) == (3, "None2", 7, True)
    assert end == len(HEARTBEAT + data)


names = st.text(max_size=60)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.text()
    | st.binary()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.decimals(-1000, 1000, places=2)
    | st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
short = st.text(max_size=60)
properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": short,
        "content_encoding": short,
        "application_headers": st.dictionaries(names, values, max_size=8),
        "delivery_mode": st.integers(1, 2),
        "priority": st.integers(0, 255),
        "correlation_id": short,
        "reply_to": short,
        "expiration": short,
        "message_id": short,
        "timestamp": st.integers(0, 2**32),
        "type": short,
        "app_id": short,
    },
)
addresses = st.tuples(short, st.integers(0, 2**64 - 1), st.booleans(), short, short)


@given(st.binary(max_size=300), addresses, properties)
def test_what_is_read_is_what_py_amqp_reads(body: bytes, address: Any, said: dict[str, Any]) -> None:
    data = delivered(body, address, **said)
    try:
        found = next_delivery(data, 0)
    except UncommonError:
        return
    assert found is not None
    assert found[0] == read_by_py_amqp(data)
    assert found[1] == len(data)


headers = st.dictionaries(names, values, max_size=5)
some = st.sampled_from(["", "a", "b", None, 1, 2, 0.5, True, [1], [2], {"a": 1}, {"a": [1]}])
messages = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys("abcdefgh", some)), min_size=2, max_size=6)


@given(st.sampled_from(["sum", "sum_up", ""]), headers, st.lists(headers, min_size=2, max_size=5) | messages)
def test_headers_that_are_partly_alike_are_read_alike(
    task: str, constant: dict[str, Any], others: list[Any]
) -> None:
    for other in others:
        said = {"lang": "py", "task": task, **constant, **other}
        data = delivered(b"1", application_headers=said)
        try:
            found, _ = next_delivery(data, 0) or (None, 0)
        except UncommonError:
            continue
        assert found == read_by_py_amqp(data)
        change(found.properties["application_headers"])


def change(value: Any) -> None:
    """Do to headers what Celery's code might do, at every depth."""
    if isinstance(value, dict):
        for inner in value.values():
            change(inner)
        value["changed"] = 1
    elif isinstance(value, list):
        for inner in value:
            change(inner)
        value.append("changed")


@pytest.mark.parametrize("value", [[None], {"a": 1}, [[1]], [{"a": 1}], {"a": [1]}, {"a": {"b": 1}}])
def test_headers_that_are_changed_are_not_those_of_the_next_message(value: Any) -> None:
    for number in range(4):
        said = {"lang": "py", "task": f"changed {value}", "same": value, "after": "x", "id": f"{number}"}
        found, _ = next_delivery(delivered(b"1", application_headers=said), 0) or (None, 0)
        assert found is not None
        assert found.properties["application_headers"] == said
        change(found.properties["application_headers"])


VARYING = ("expires", "x-published-at", "id", "root_id", "argsrepr", "kwargsrepr")
CONSTANT = {name: value for name, value in HEADERS.items() if name not in VARYING}


@pytest.mark.parametrize(
    "order",
    [
        HEADERS,
        CONSTANT | HEADERS,
        [*CONSTANT, "expires", "kwargsrepr", "id", "root_id", "argsrepr", "x-published-at"],
    ],
    ids=["Celery's", "what is constant first", "our client's"],
)
def test_what_is_the_same_in_all_messages_of_a_task_is_read_once(
    monkeypatch: pytest.MonkeyPatch, order: Iterable[str]
) -> None:
    left: list[bytes] = []
    table = deliveries._table

    def read(buffer: bytes, at: int, end: int, *more: Any) -> dict[str, Any]:
        left.append(buffer[at:end])
        return table(buffer, at, end, *more)

    monkeypatch.setattr(deliveries, "_layouts", {})
    monkeypatch.setattr(deliveries, "_table", read)
    for number in range(5):
        said = {name: HEADERS[name] for name in order} | {name: f"{name} {number}" for name in VARYING}
        said["x-published-at"] = 0.5 * number
        left.clear()
        found, _ = next_delivery(delivered(b"1", application_headers=said), 0) or (None, 0)
        assert found is not None
        assert found.properties["application_headers"] == said
        if number > 1:
            assert left == [b""]


@pytest.mark.parametrize("other", [{"shadow": "named", "retries": 1}, {"eta": "soon"}, {"lately": None}])
def test_two_kinds_of_message_of_a_task_are_told_apart_once(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    """A retry, for example."""
    first = {name: HEADERS[name] for name in ("lang", "task", "id")}
    learned: list[int] = []
    split = deliveries._split

    def learn(table: bytes) -> Any:
        learned.append(number)
        return split(table)

    monkeypatch.setattr(deliveries, "_layouts", {})
    monkeypatch.setattr(deliveries, "_split", learn)
    for number in range(9):
        more = {**other, **HEADERS, **other} if number % 2 else HEADERS
        data = delivered(b"1", application_headers={**first, **more, "id": f"id {number}"})
        found, _ = next_delivery(data, 0) or (None, 0)
        assert found == read_by_py_amqp(data)
    assert learned == [0, 1]


def test_more_tasks_than_are_remembered_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_layouts", {})
    for number in range(2 * deliveries._MOST_LAYOUTS + 1):
        said = {**HEADERS, "task": f"task {number}"}
        found, _ = next_delivery(delivered(b"1", application_headers=said), 0) or (None, 0)
        assert found is not None
        assert found.properties["application_headers"] == said
    assert len(deliveries._layouts) <= deliveries._MOST_LAYOUTS


def test_long_headers_are_read_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_layouts", {})
    said = {**HEADERS, "more": "x" * deliveries._LONGEST_HEADERS}
    for _ in range(2):
        found, _ = next_delivery(delivered(b"1", application_headers=said), 0) or (None, 0)
        assert found is not None
        assert found.properties["application_headers"] == said
    assert not deliveries._layouts


@given(st.integers(0, 2**32))
def test_as_long_as_a_part_is_missing_there_is_no_message(seed: int) -> None:
    data = delivered(b"[[1], {}, {}]", **COMMON)
    assert next_delivery(data[: seed % len(data)], 0) is None or seed % len(data) == 0


@pytest.mark.parametrize(
    ("value", "is_read"),
    [
        (2**40, True),
        (math.pi, True),
        (True, True),
        ({}, True),
        ([None, None], True),
        ([10, 2.5, ["a", None]], True),
        ({"a": {"b": 1}}, True),
        (Decimal("1.5"), False),
        (b"\xff", False),
    ],
)
def test_rare_values_are_left_to_py_amqp(value: Any, is_read: bool) -> None:
    data = delivered(b"x", application_headers={"value": value})
    if is_read:
        assert next_delivery(data, 0) == (read_by_py_amqp(data), len(data))
    else:
        with pytest.raises(UncommonError):
            next_delivery(data, 0)


def with_table(table: bytes) -> bytes:
    """A message whose headers are these bytes."""
    plain = delivered(b"x")
    method = plain[: plain.index(b"\xce\x02") + 1]
    payload = struct.pack(">HHQHI", 60, 0, 1, 0x2000, len(table)) + table
    return method + struct.pack(">BHI", 2, 3, len(payload)) + payload + b"\xce" + plain[-9:]


@pytest.mark.parametrize("letter", "btBsUuIilLfd")
@pytest.mark.parametrize("byte", [b"\0", b"\1", b"\x80", b"\xff"])
def test_numbers_of_all_clients_are_read(letter: str, byte: bytes) -> None:
    """py-amqp writes few of RabbitMQ's types."""
    size = {"b": 1, "t": 1, "B": 1, "s": 2, "U": 2, "u": 2, "I": 4, "i": 4, "f": 4}.get(letter, 8)
    data = with_table(b"\x01n" + letter.encode() + byte * size + b"\x01zV")
    found = next_delivery(data, 0)
    assert found is not None
    assert repr(found[0]) == repr(read_by_py_amqp(data))


def test_lists_in_lists_without_end_are_left_to_py_amqp() -> None:
    table = b"V"
    for _ in range(15_000):
        table = b"A" + struct.pack(">I", len(table)) + table
    with pytest.raises(UncommonError):
        next_delivery(with_table(b"\x01n" + table), 0)


@pytest.mark.parametrize(
    "data",
    [
        HEARTBEAT,
        HEARTBEAT[:3],
        delivered(b""),
        delivered(b"x" * 10_000, frame_max=4096),
        delivered(b"x", timestamp=1),
        delivered(b"x")[:-1] + b"x",
        delivered(b"x", application_headers={"a": "b"}).replace(b"\x01aS", b"\xffaS"),
        delivered(b"x", application_headers={"a": "b"}).replace(b"S\0\0\0\x01b", b"S\0\0\x01\x01b"),
        delivered(b"x", ("tag", 1, False, "", "key")).replace(b"\x03key", b"\x04key"),
        struct.pack(">BHIHHB", 1, 3, 4, 60, 31, 0xCE),
    ],
)
def test_whatever_else_comes_is_left_to_py_amqp(data: bytes) -> None:
    with pytest.raises(UncommonError):
        next_delivery(data, 0)
