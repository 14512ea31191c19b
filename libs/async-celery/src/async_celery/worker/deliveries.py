"""Deliveries: a whole message of RabbitMQ's at once, out of the bytes that have come.

How it works: py-amqp takes a message in three frames, each through several layers, and reads its headers value by
value with general code: most of what a worker's main process does for a task. Here the three frames are read in
one step, when all of them have come, and the headers with what Celery's clients send in mind. What is rarer (a
body in several frames, other properties, values of rare types) is left to py-amqp, frame by frame, as before.

Most headers are the same in all messages of a task, and so is their order: where they are, byte for byte, they
are copied, and only those between them are read (`_Layout`).

What belongs here: reading, without a connection. Whom a delivery is for is `wire.py`'s.
"""

import struct
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, 0xCE
_BASIC, _DELIVER = 60, 60
_FRAME = Struct(">BHI")
_BEGINNING = Struct(">BHIHHB")  # frame, class, method, length of the consumer's tag
_TAG = Struct(">QBB")  # delivery tag, redelivered, length of the exchange
_PROPERTIES = Struct(">BHIHHQH")  # frame, class, weight, size of the body, which properties
_LENGTH = Struct(">I")
_BEHIND_FRAME = 1  # its last byte

_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800
_SHORT = ((0x0400, "correlation_id"), (0x0200, "reply_to"), (0x0100, "expiration"), (0x0080, "message_id"))
_OTHERS = 0x007F

_STRING, _VOID, _ARRAY, _TABLE = b"SVAF"
_NUMBERS = {letter: Struct(f">{code}") for letter, code in zip(b"btBsUuIilLfd", "b?BhhHiIqqfd", strict=True)}
"""RabbitMQ's letters, and how Python's `struct` reads what follows them."""

# Names and addresses come again and again.
_text = lru_cache(4096)(bytes.decode)


class Delivery(NamedTuple):
    """A message, as `basic.deliver` brings it. `channel` is the number of its channel."""

    channel: int
    consumer_tag: str
    delivery_tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: dict[str, Any]
    body: bytes


class UncommonError(Exception):
    """What comes is no message that is read here."""


def next_delivery(buffer: bytes, at: int) -> tuple[Delivery, int] | None:
    """Return the message that begins at `at`, and where it ends; None when not all of it has come.

    Raises:
        UncommonError: there is something else.
    """
    try:
        if buffer[at] != _METHOD:
            raise UncommonError
        _, channel, size, class_, method, _ = _BEGINNING.unpack_from(buffer, at)
        if class_ != _BASIC or method != _DELIVER:
            raise UncommonError
        end_of_method = at + _FRAME.size + size
        header = end_of_method + _BEHIND_FRAME
        kind, its_channel, size, class_, _, body_size, flags = _PROPERTIES.unpack_from(buffer, header)
        if kind != _HEADER or its_channel != channel or class_ != _BASIC or flags & _OTHERS or not body_size:
            raise UncommonError
        end_of_header = header + _FRAME.size + size
        kind, its_channel, size = _FRAME.unpack_from(buffer, end_of_header + _BEHIND_FRAME)
        if kind != _BODY or its_channel != channel or size != body_size:
            raise UncommonError
        body = end_of_header + _BEHIND_FRAME + _FRAME.size
        end = body + size
        if not buffer[end] == buffer[end_of_header] == buffer[end_of_method] == _END:
            raise UncommonError
    except (struct.error, IndexError):
        return None
    try:
        consumer_tag, at = _short(buffer, at + _BEGINNING.size - 1)
        delivery_tag, bits, _ = _TAG.unpack_from(buffer, at)
        exchange, at = _short(buffer, at + _TAG.size - 1)
        routing_key, at = _short(buffer, at)
        properties = _properties(buffer, header + _PROPERTIES.size, end_of_header, flags)
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as exc:
        raise UncommonError from exc
    if at != end_of_method:
        raise UncommonError
    delivered = Delivery(
        channel, consumer_tag, delivery_tag, bits & 1 == 1, exchange, routing_key, properties, buffer[body:end]
    )
    return delivered, end + _BEHIND_FRAME


def _properties(buffer: bytes, at: int, end: int, flags: int) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    if flags & _CONTENT_TYPE:
        properties["content_type"], at = _short(buffer, at)
    if flags & _CONTENT_ENCODING:
        properties["content_encoding"], at = _short(buffer, at)
    if flags & _HEADERS:
        (length,) = _LENGTH.unpack_from(buffer, at)
        at += _LENGTH.size
        properties["application_headers"] = _headers(buffer, at, at + length)
        at += length
    if flags & _DELIVERY_MODE:
        properties["delivery_mode"] = buffer[at]
        at += 1
    if flags & _PRIORITY:
        properties["priority"] = buffer[at]
        at += 1
    for flag, name in _SHORT:
        if flags & flag:
            length = buffer[at] + 1
            # Most are another one for each message.
            properties[name] = buffer[at + 1 : at + length].decode()
            at += length
    if at != end:
        raise UncommonError
    return properties


def _short(buffer: bytes, at: int) -> tuple[str, int]:
    """Return a short string and where it ends."""
    end = at + 1 + buffer[at]
    return _text(buffer[at + 1 : end]), end


class _Header(NamedTuple):
    """One of the headers that a task's messages have."""

    name: str
    kind: int
    raw: bytes | None
    """The value, as it is in all messages; None where it is not the same in all of them."""
    value: Any


class _Run(NamedTuple):
    """Headers that are the same in all messages of a task, and which one comes then, different in each."""

    raw: bytes  # up to that other value
    values: dict[str, Any]
    copied: tuple[str, ...]
    """Which of the values can be changed."""
    name: str | None
    kind: int


class _Layout(NamedTuple):
    """What is known of the headers of a task's messages, from their beginning."""

    headers: list[_Header]
    runs: list[_Run]


_FIRST = b"\x04langS\0\0\0\x02py\x04taskS"
_layouts: dict[bytes, _Layout] = {}
"""By the bytes up to the name of the third header: which task it is, and which kind of client has sent it."""
_MOST_LAYOUTS, _LONGEST_HEADERS = 1000, 4096  # bytes: they are kept
_UNCHANGEABLE = frozenset({str, int, float, bool, type(None)})


def _headers(buffer: bytes, at: int, end: int) -> dict[str, Any]:
    """As `_table`; what is the same in all messages of a task is not read again."""
    if not buffer.startswith(_FIRST, at, end):
        return _table(buffer, at, end)
    task = at + len(_FIRST)
    third = task + _LENGTH.size + _LENGTH.unpack_from(buffer, task)[0]
    first = buffer[at : third + 1 + buffer[third]]
    known = _layouts.get(first)
    if known is not None and (headers := _by_runs(known.runs, buffer, at, end)) is not None:
        return headers
    headers = _table(buffer, at, end)
    if end - at <= _LONGEST_HEADERS:
        if len(_layouts) >= _MOST_LAYOUTS:
            _layouts.clear()
        found = _split(buffer[at:end])
        # At first all is the same. What is not so in the next message is left open then, and so on.
        common = found if known is None else _common(known.headers, found)
        _layouts[first] = _Layout(common, _runs(common))
    return headers


def _by_runs(runs: list[_Run], buffer: bytes, at: int, end: int) -> dict[str, Any] | None:
    """Return a table that is laid out like this, whatever comes after it; None when it is not."""
    table: dict[str, Any] = {}
    length_of = _LENGTH.unpack_from
    for raw, values, copied, name, kind in runs:
        if not buffer.startswith(raw, at, end):
            return None
        at += len(raw)
        table.update(values)
        for one in copied:
            table[one] = table[one].copy()
        if name is None:
            break
        if kind == _STRING:
            begin = at + 4
            at = begin + length_of(buffer, at)[0]
            table[name] = buffer[begin:at].decode()
        else:
            table[name], at = _value(buffer, at, kind)
    return _table(buffer, at, end, table)


def _split(table: bytes) -> list[_Header]:
    headers = []
    at = 0
    while at < len(table):
        kind = at + 1 + table[at]
        name = table[at + 1 : kind].decode()
        value, end = _value(table, kind + 1, table[kind])
        parts = value if type(value) is list else value.values() if type(value) is dict else (value,)
        if _UNCHANGEABLE.issuperset(map(type, parts)):
            headers.append(_Header(name, table[kind], table[kind + 1 : end], value))
        else:
            headers.append(_Header(name, table[kind], None, None))
        at = end
    return headers


def _common(known: list[_Header], found: list[_Header]) -> list[_Header]:
    """Return what both begin with, as to names and kinds of value."""
    common = []
    for one, other in zip(known, found, strict=False):
        if (one.name, one.kind) != (other.name, other.kind):
            break
        common.append(one if one.raw == other.raw else _Header(one.name, one.kind, None, None))
    return common


def _runs(headers: list[_Header]) -> list[_Run]:
    runs = []
    raw = b""
    values: dict[str, Any] = {}
    for name, kind, same, value in headers:
        encoded = name.encode()
        raw += len(encoded).to_bytes() + encoded + kind.to_bytes()
        if same is not None:
            raw += same
            values[name] = value
        else:
            runs.append(_Run(raw, values, _changeable(values), name, kind))
            raw, values = b"", {}
    if raw:
        runs.append(_Run(raw, values, _changeable(values), None, 0))
    return runs


def _changeable(values: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, value in values.items() if type(value) in (list, dict))


def _table(buffer: bytes, at: int, end: int, table: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a table; with one that is given, what comes is added to it."""
    table = {} if table is None else table
    length_of = _LENGTH.unpack_from
    while at < end:
        value = at + 1 + buffer[at]
        name = _text(buffer[at + 1 : value])
        kind = buffer[value]
        value += 1
        if kind == _STRING:
            at = value + 4 + length_of(buffer, value)[0]
            table[name] = buffer[value + 4 : at].decode()
        elif kind == _VOID:
            at = value
            table[name] = None
        else:
            table[name], at = _value(buffer, value, kind)
    if at != end:
        raise UncommonError
    return table


def _value(buffer: bytes, at: int, kind: int) -> tuple[Any, int]:
    """Return a value and where it ends; `kind` is the byte before it."""
    if (number := _NUMBERS.get(kind)) is not None:
        return number.unpack_from(buffer, at)[0], at + number.size
    if kind == _VOID:
        return None, at
    begin = at + _LENGTH.size
    end = begin + _LENGTH.unpack_from(buffer, at)[0]
    if kind == _STRING:
        return buffer[begin:end].decode(), end
    if kind == _TABLE:
        return _table(buffer, begin, end), end
    if kind != _ARRAY:
        raise UncommonError
    values, at = [], begin
    while at < end:
        value, at = _value(buffer, at + 1, buffer[at])
        values.append(value)
    return values, end
