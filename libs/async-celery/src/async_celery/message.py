"""Celery's messages as bytes: what goes between `basic.publish` and the end of the body.

How it works: there are two ways, and what a worker reads is the same.

The general one takes a `Publication`, what Celery's own code hands to kombu, and lets kombu's producer make a
message of it: any serializer, any compression, any headers. Of many with the same options, as those of a group,
what is around headers and body is taken from the first: an `_Envelope`.

The fast one is for a plain task: JSON, no countdown. All but a few of its headers are the same in every message
of one task name to one queue. So a sample is recorded (`recording.py`), what is constant in it is encoded once
as a template, and each message then costs its id, its arguments, their `repr` and the times in its headers. A
template that does not give the very message that the general way gives, for two samples, is not used: another
task protocol, another JSON, a compression. Nor is any while somebody listens to Celery's signals about
publishing, who may change a message.

Added to what Celery sends: the property `message_id`, the task's id, by which a returned message is recognised;
and what `recording.py` adds. And the first message of a long chain, which carries all its steps, is compressed as
Celery would with the option `compression`: every worker reads it.

What belongs here: encoding. What a message is to say, Celery decides; where it goes, `publisher.py`.
"""

import struct
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from time import time
from types import EllipsisType
from typing import Any
from uuid import uuid4

import amqp as pyamqp
from amqp import serialization
from amqp.exceptions import AMQPError
from celery import signals
from celery.app.routes import MapRoute
from kombu import Producer
from kombu.exceptions import KombuError
from kombu.serialization import dumps

from async_celery import amqp
from async_celery.errors import PayloadError
from async_celery.json_text import json_encoder
from async_celery.recording import CeleryRecorder
from async_celery.reprs import celery_repr
from async_celery.signed_pickle import SERIALIZER as SIGNED_PICKLE
from async_celery.signed_pickle import TaskBody
from async_celery.topology import Topologies, Topology
from async_celery.types import PUBLISHED_AT, Publication, TaskMessage

_BASIC = 60
_CONTENT_HEADER = struct.Struct(">HHQ")
"""Class, weight (always 0), size of the body; the properties follow."""
_LENGTH = struct.Struct(">I")
_INT, _LONG_INT, _DOUBLE = struct.Struct(">ci"), struct.Struct(">cq"), struct.Struct(">cd")
_LONG = 1 << 31
_TIMES_RESOLUTION = 0.001  # s

_PARTS_OF_BODY = 3  # of Celery's task protocol 2: arguments, keyword arguments, and what comes after the task

_MOST_HEADER_BYTES = amqp.FRAME_MAX - 8

# RabbitMQ keeps what is smaller with the queue's own data, and confirms it half a millisecond sooner; what is
# larger would keep the loop busy for too long. The steps of a chain are much alike: of 100, a thirteenth is left.
_COMPRESSED = range(4096, 1 << 20)  # bytes
_ZLIB = "application/x-gzip"  # as kombu calls it

_encode_json = json_encoder()


def _encode_body(body: Any) -> str:
    """Do as `_encode_json`, but with the steps of a chain one by one.

    Together they are thousands of pieces of text before they are one, all over the memory of a busy process, and
    take half as long again; the pieces of one step lie where those of the step before lay.
    """
    if not _has_chain(body):
        return _encode_json(body)
    args, kwargs, embed = body
    steps = f"[{', '.join(map(_encode_json, embed['chain']))}]"
    parts = [f'"{name}": {steps if name == "chain" else _encode_json(part)}' for name, part in embed.items()]
    return f"[{_encode_json(args)}, {_encode_json(kwargs)}, {{{', '.join(parts)}}}]"


def _has_chain(body: Any) -> bool:
    return type(body) is tuple and len(body) == _PARTS_OF_BODY and bool(body[2].get("chain"))


_NOT_ENCODABLE = (
    AMQPError,
    AttributeError,
    KeyError,
    KombuError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a message goes, what must exist there first, and the frame that says so."""

    exchange: str
    routing_key: str
    topology: Topology
    frame: bytes


Encoded = tuple[Place, bytes]
"""Where a message goes, and the frames that publish it there."""


class Encoder:
    """Turns messages into bytes. Does no I/O; keeps a template for each pair of task name and queue."""

    def __init__(self, *, recorder: CeleryRecorder, max_body_bytes: int, max_templates: int = 1000) -> None:
        """Take who defines messages.

        Args:
            recorder: what Celery would publish.
            max_body_bytes: of a message without its headers; a larger one is refused.
            max_templates: how many to keep; tasks beyond are encoded the general way, so that names that a
                caller makes up do not fill the memory.
        """
        self._recorder = recorder
        self._topologies = Topologies(recorder.app)
        self._max_body_bytes = max_body_bytes
        self._surely_small = min(max_body_bytes, amqp.FRAME_MAX)  # bytes; of all frames, so of each
        self._max_templates = max_templates
        self._templates: dict[tuple[str, str], _Template | None] = {}
        self._envelopes: dict[tuple[Any, ...], _Envelope | None] = {}
        self._catcher = _MessageCatcher()
        self._kombu: Any = Producer(self._catcher, auto_declare=False)  # type: ignore[arg-type]  # a channel to kombu

    def task(self, message: TaskMessage) -> Encoded:
        """Encode a task.

        Raises:
            PayloadError: it cannot be encoded; the text names the argument or header at fault.
        """
        _, name, _, _, queue, serializer, _, _, countdown, _, headers = message
        template = None
        try:
            if serializer == "json" and countdown is None and not (_BEFORE.receivers or _AFTER.receivers):
                try:
                    template = self._templates[name, queue]
                except KeyError:
                    template = self._new_template(message)
            if template is not None and (not headers or template.allows(headers)):
                place, frames = template.place, template.fill(message)
                if len(frames) <= self._surely_small:
                    return place, frames
                header, body = amqp.content_of(frames)
            else:
                place, header, body = self._by_kombu(self._recorder.task(message))
        except (PayloadError, *_NOT_ENCODABLE) as exc:
            raise PayloadError(_fault(message) or f"the message cannot be serialised: {_text(exc)}") from exc
        return self._framed(place, header, body)

    def publication(self, publication: Publication) -> Encoded:
        """Encode what Celery's own code would publish.

        Raises:
            PayloadError: it cannot be encoded.
        """
        try:
            envelope = self._envelope_of(publication)
            if envelope is not None:
                place = envelope.place
                header, body = envelope.fill(publication)
            else:
                place, header, body = self._by_kombu(publication)
        except _NOT_ENCODABLE as exc:
            raise PayloadError(f"the message cannot be serialised: {_text(exc)}") from exc
        return self._framed(place, header, body)

    def _framed(self, place: Place, header: bytes, body: bytes) -> Encoded:
        if len(body) > self._max_body_bytes:
            raise PayloadError(
                f"the message has {len(body)} bytes, {self._max_body_bytes} are allowed: store the data "
                "elsewhere and send a reference"
            )
        if len(header) > _MOST_HEADER_BYTES:
            raise PayloadError(
                f"the message has headers of {len(header)} bytes, {_MOST_HEADER_BYTES} are allowed: send what is "
                "long as an argument"
            )
        return place, amqp.message_frames(place.frame, header, body)

    def _by_kombu(self, publication: Publication) -> tuple[Place, bytes, bytes]:
        """Return the place, content header and body of a publication."""
        place, properties, body = self._through_kombu(publication)
        return place, _content_header(properties, body), body

    def _through_kombu(self, publication: Publication) -> tuple[Place, dict[str, Any], bytes]:
        """Return the place, properties and body that kombu makes of a publication."""
        options = dict(publication.options)
        entities = options.pop("declare", None) or ()
        self._kombu.publish(publication.body, **options)
        message, exchange, routing_key = self._catcher.caught
        if publication.task_id is not None:
            message.properties["message_id"] = publication.task_id
        place = Place(
            exchange=exchange,
            routing_key=routing_key,
            topology=self._topologies.of(entities, exchange, routing_key),
            frame=amqp.basic_publish(exchange, routing_key, mandatory=publication.mandatory),
        )
        body = message.body
        return place, message.properties, body.encode() if isinstance(body, str) else bytes(body)

    def _envelope_of(self, publication: Publication) -> "_Envelope | None":
        options = publication.options
        if options.get("serializer") != "json" or publication.task_id is None:
            return None
        same = [item for item in options.items() if item[0] not in _NOT_OF_AN_ENVELOPE]
        declared = options.get("declare") or ()
        # By identity: an envelope keeps them.
        key = (publication.mandatory, *same, *map(id, declared))
        try:
            return self._envelopes[key]
        except KeyError:
            if len(self._envelopes) >= self._max_templates:
                return None
            envelope = self._envelopes[key] = self._new_envelope(publication)
            return envelope
        except TypeError:  # an option without a hash
            return None

    def _new_envelope(self, publication: Publication) -> "_Envelope | None":
        options = {**publication.options, "headers": {}, "correlation_id": _PLACE_OF_ID}
        empty = replace(publication, task_id=_PLACE_OF_ID, body=None, options=options)
        place, properties, _ = self._through_kombu(empty)
        before, after = _around_headers(properties)
        envelope = _Envelope(place, before, after, options.get("declare"))
        for sample in (publication, replace(publication, body=_ODD)):
            _, properties, body = self._through_kombu(sample)
            if envelope.fill(sample, compressed=()) != (_content_header(properties, body), body):
                return None
        return envelope

    def _new_template(self, message: TaskMessage) -> "_Template | None":
        """Make and keep the template for messages like this one, None when there is none."""
        if len(self._templates) >= self._max_templates:
            return None
        key = message.name, message.queue
        template = self._templates[key] = self._tried_template(message)
        return template

    def _tried_template(self, message: TaskMessage) -> "_Template | None":
        app: Any = self._recorder.app
        if not all(isinstance(route, MapRoute) for route in app.amqp.routes):
            # It may decide by the arguments.
            return None
        samples = [
            TaskMessage("0" * 8, message.name, _ODD, {"ä": Decimal(1)}, message.queue),
            TaskMessage(str(uuid4()), message.name, [None, 0.1], {}, message.queue, priority=3, expiration=True),
        ]
        template = None
        for sample in samples:
            publication = self._recorder.task(sample)
            place, properties, body = self._through_kombu(publication)
            if template is None:
                template = _Template.of(app, place, publication.body, properties)
            theirs = _content_header(properties, body), body
            if template is None or not _is_same(amqp.content_of(template.fill(sample)), theirs):
                return None
        return template


_BEFORE, _AFTER = signals.before_task_publish, signals.after_task_publish
_ODD = (0, b"\xff", datetime.now(UTC), Decimal(1))
"""What kombu's JSON writes in a way of its own."""
_NOT_OF_AN_ENVELOPE = {"headers", "declare", "correlation_id"}
_PLACE_OF_ID = "the id of the task"


class _MessageCatcher:
    """What kombu's producer takes for a channel: it keeps the message."""

    channel_id = 0
    caught: tuple[Any, str, str]

    def prepare_message(
        self,
        body: Any,
        priority: int,
        content_type: str,
        content_encoding: str,
        headers: Mapping[str, Any],
        properties: Mapping[str, Any],
    ) -> Any:
        """Do what kombu's own AMQP channel does."""
        return pyamqp.Message(
            body,
            priority=priority,
            content_type=content_type,
            content_encoding=content_encoding,
            application_headers=headers,
            **properties,
        )

    def basic_publish(self, message: Any, *, exchange: str, routing_key: str, **_: Any) -> None:
        """Keep it."""
        self.caught = message, exchange, routing_key


class _Envelope:
    """What is the same in all JSON messages with the same options: everything around their headers and bodies."""

    def __init__(self, place: Place, before: bytes, after: bytes, declared: Any) -> None:
        self.place = place
        self._before = before
        self._after = after
        self._declared = declared

    def fill(self, publication: Publication, *, compressed: Container[int] = _COMPRESSED) -> tuple[bytes, bytes]:
        """Return one message's content header and body; a chain is compressed if its size is one of these."""
        assert publication.task_id is not None  # noqa: S101 (for mypy: else there is no envelope)
        body = _encode_body(publication.body).encode()
        headers = publication.options["headers"]
        if len(body) in compressed and _has_chain(publication.body):
            body = zlib.compress(body, zlib.Z_BEST_SPEED)
            headers = {**headers, "compression": _ZLIB}
        table = _table_entries(headers)
        header = b"".join(
            (
                _CONTENT_HEADER.pack(_BASIC, 0, len(body)),
                self._before,
                _LENGTH.pack(len(table)),
                table,
                self._after.replace(_short(_PLACE_OF_ID), _short(publication.task_id)),
            )
        )
        return header, body


class _Template:
    """What is the same in every message of one task name to one queue.

    A message is put together as text, a character for each byte (Latin-1): most of what goes in is text, and to
    encode every piece of it takes longer.
    """

    def __init__(
        self,
        *,
        app: Any,
        place: Place,
        content: bytes,
        header_names: frozenset[str],
        headers: bytes,
        delivery_mode: bytes,
        reply_to: bytes,
        embed: str,
    ) -> None:
        self.place = place
        self._header_names = header_names
        self._headers = headers  # the constant ones
        self._reply_to = _latin(reply_to)
        self._embed = embed  # the end of the body: callbacks, chain, chord, none of them set
        self._args_limit: int = app.amqp.argsrepr_maxsize
        self._kwargs_limit: int = app.amqp.kwargsrepr_maxsize
        self._levels: int | None = app.conf.task_repr_maxlevels
        # All up to the size of the content header.
        self._before = _latin(place.frame + amqp.HEADER)
        self._content = _latin(_FLAGS + content)
        self._content_with_expiration = _latin(_FLAGS_WITH_EXPIRATION + content)
        self._delivery_mode = _latin(delivery_mode)
        self._no_priority = self._delivery_mode + "\0"
        # What is of one size in every content header, and in the table of headers in it.
        self._size = _CONTENT_HEADER.size + len(self._content) + _LENGTH.size + len(self._no_priority)
        self._table_size = len(_ROOT_ID) + len(_ARGS_REPR) + _LENGTH.size
        self._dated = self._dated_without_kwargs = ""
        self._dated_of = (0.0, 0.0)  # the lifetime that they were made for, and when, in s

    @classmethod
    def of(cls, app: Any, place: Place, payload: Any, properties: Mapping[str, Any]) -> "_Template | None":
        """Make one of a sample, None when the sample is not of Celery's task protocol 2."""
        headers = properties["application_headers"]
        if not (isinstance(payload, tuple) and len(payload) == _PARTS_OF_BODY and headers.keys() >= _VARIABLE):
            return None
        constant = {name: value for name, value in headers.items() if name not in _VARIABLE}
        return cls(
            app=app,
            place=place,
            content=_short(properties["content_type"]) + _short(properties["content_encoding"]),
            header_names=frozenset(headers),
            headers=_table_entries(constant),
            delivery_mode=bytes((properties["delivery_mode"],)),
            reply_to=_short(properties["reply_to"]),
            embed=f", {_encode_json(payload[2])}]",
        )

    def allows(self, headers: Mapping[str, Any]) -> bool:
        """Return whether these headers of the caller's only add to Celery's."""
        return self._header_names.isdisjoint(headers)

    def fill(self, message: TaskMessage) -> bytes:
        """Return a message's frames: three, of whatever size."""
        task_id, _, args, kwargs, _, _, lifetime, expiration, _, priority, headers = message
        now = time()
        made_for, made_at = self._dated_of
        if lifetime != made_for or not 0 <= now - made_at < _TIMES_RESOLUTION:
            self._date(lifetime, now)
        if type(args) is not tuple:
            args = tuple(args)
        short_id = chr(len(task_id)) + task_id if task_id.isascii() else _latin(_short(task_id))
        args_repr = celery_repr(args, self._args_limit, self._levels)
        if not args_repr.isascii():
            args_repr = _as_encoded(args_repr)
        more, content, mode, reply_to = "", self._content, self._no_priority, self._reply_to
        if kwargs:
            if type(kwargs) is not dict:
                kwargs = dict(kwargs)
            body = f"[{_encode_json(args)}, {_encode_json(kwargs)}{self._embed}"
            text = _as_encoded(celery_repr(kwargs, self._kwargs_limit, self._levels))
            dated, more = self._dated, f"{_KWARGS_REPR}{_SIZES[len(text)]}{text}"
        else:
            body = f"[{_encode_json(args)}, {{}}{self._embed}"
            dated = self._dated_without_kwargs
        if headers:
            more += _latin(_table_entries(headers))
        if priority is not None:
            mode = self._delivery_mode + chr(priority)
        if expiration:
            content = self._content_with_expiration
            reply_to += _latin(_short(str(int(lifetime * 1000))))
        ids = 2 * len(short_id)
        table = self._table_size + len(dated) + ids + len(args_repr) + len(more)
        size = self._size + table + ids + len(reply_to)
        body_size = _SIZES[len(body)]
        return (
            f"{self._before}{_SIZES[size]}{_CLASS}{body_size}{content}{_SIZES[table]}"
            f"{dated}{short_id}{_ROOT_ID}{short_id}{_ARGS_REPR}{_SIZES[len(args_repr)]}{args_repr}{more}"
            f"{mode}{short_id}{reply_to}{short_id}"
            f"{_BODY_HEAD}{body_size}{body}{_FRAME_END}"
        ).encode("latin-1")

    def _date(self, lifetime: float, now: float) -> None:
        """Make the headers up to the id anew: the constant ones, and the times of now and so many s from now."""
        expires = datetime.fromtimestamp(now + lifetime, UTC).isoformat()
        dated = _latin(self._headers + _table_entries({"expires": expires, PUBLISHED_AT: now}))
        self._dated = dated + _ID
        self._dated_without_kwargs = f"{dated}{_KWARGS_REPR}\0\0\0\x02{{}}{_ID}"
        self._dated_of = lifetime, now


def _latin(encoded: bytes) -> str:
    """Return bytes as text, one character for each."""
    return encoded.decode("latin-1")


def _as_encoded(text: str) -> str:
    """Return text as py-amqp encodes it, as `_latin`: what is not Unicode comes out as it went in."""
    return _latin(text.encode("utf-8", "surrogatepass"))


class _Sizes(dict[int, str]):
    """Sizes in four bytes, as `_latin`; those of small messages are kept."""

    def __missing__(self, size: int) -> str:
        text = _latin(_LENGTH.pack(size))
        if size < _SMALL:
            self[size] = text
        return text


_SMALL = 4096  # bytes
_SIZES = _Sizes()
# A long string has its length in four bytes, a short one in the last of them.
_ID, _ROOT_ID = "\x02idS\0\0\0", "\x07root_idS\0\0\0"
_ARGS_REPR, _KWARGS_REPR = "\x08argsreprS", "\x0akwargsreprS"
_CLASS = _latin(_CONTENT_HEADER.pack(_BASIC, 0, 0)[: -_LENGTH.size])
"""The content header up to the size of the body, of whose eight bytes the last four are used."""
_FRAME_END = _latin(amqp.FRAME_END)
_BODY_HEAD = _latin(amqp.FRAME_END + amqp.BODY)
_VARIABLE = {"id", "root_id", "argsrepr", "kwargsrepr", "expires", PUBLISHED_AT}
"""The headers that a template leaves open."""


def _flags(*properties: str) -> bytes:
    """Return the property flags: one bit for each, from the left in the order of the protocol."""
    places = {name: 15 - place for place, (name, _) in enumerate(pyamqp.Message.PROPERTIES)}
    return sum(1 << places[name] for name in properties).to_bytes(2)


_PROPERTIES = (
    "content_type",
    "content_encoding",
    "application_headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "message_id",
)
_FLAGS = _flags(*_PROPERTIES)
_FLAGS_WITH_EXPIRATION = _flags(*_PROPERTIES, "expiration")


def _content_header(properties: Mapping[str, Any], body: bytes) -> bytes:
    table = _table_entries(properties["application_headers"])
    before, after = _around_headers(properties)
    content = _CONTENT_HEADER.pack(_BASIC, 0, len(body))
    return b"".join((content, before, _LENGTH.pack(len(table)), table, after))


def _around_headers(properties: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return the properties that stand before and after the headers, as py-amqp encodes them."""
    message: Any = pyamqp.Message(**{**properties, "application_headers": {}})
    serialized: bytes = message._serialize_properties()
    before = _FLAGS_SIZE + sum(len(_short(properties[name])) for name in _BEFORE_HEADERS if name in properties)
    return serialized[:before], serialized[before + _LENGTH.size :]


_FLAGS_SIZE = 2
_BEFORE_HEADERS = ("content_type", "content_encoding")


def _short(text: str) -> bytes:
    """Encode a short string: at most 255 bytes."""
    encoded = text.encode()
    return len(encoded).to_bytes() + encoded


def _table_entries(table: Mapping[str, Any]) -> bytes:
    """Encode a table without its length, so that more entries can follow."""
    parts: list[bytes] = []
    for name, value in table.items():
        if type(value) is str:
            text = value.encode("utf-8", "surrogatepass")
            parts += (_string_entry(name), _LENGTH.pack(len(text)), text)
        elif type(value) is int:
            parts += (
                _string_entry(name)[:-1],
                _INT.pack(b"I", value) if abs(value) < _LONG else _LONG_INT.pack(b"L", value),
            )
        elif type(value) is float and isfinite(value):
            parts += (_string_entry(name)[:-1], _DOUBLE.pack(b"d", value))
        elif value is None or type(value) is bool:
            parts.append(_constant_entry(name, value))
        elif type(value) in (list, tuple) and value.count(None) == len(value):
            parts.append(_constant_entry(name, tuple(value)))
        elif type(value) is dict and not value:
            parts.append(_constant_entry(name, ...))
        else:
            parts.append(_table_entry(name, value))
    return b"".join(parts)


def _table_entry(name: str, value: Any) -> bytes:
    _check_table(value)
    encoded: bytes = serialization.dumps("F", ({name: value},))
    return encoded[_LENGTH.size :]


@lru_cache(maxsize=1024)
def _constant_entry(name: str, value: bool | tuple[None, ...] | EllipsisType | None) -> bytes:
    """Return an entry that comes up again and again; `...` stands for an empty table, which has no hash."""
    return _table_entry(name, {} if value is ... else value)


@lru_cache(maxsize=1024)
def _string_entry(name: str) -> bytes:
    """Return the beginning of an entry whose value is a string, with its type; length and text follow."""
    return _table_entry(name, "")[: -_LENGTH.size]


def _check_table(value: Any) -> None:
    """Refuse what py-amqp encodes, and RabbitMQ then closes the connection on: Erlang has no such numbers.

    Raises:
        ValueError: there is an infinite number in it, or none at all.
    """
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"RabbitMQ cannot take {value} in a header")
    elif isinstance(value, dict):
        for item in value.values():
            _check_table(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_table(item)


def _is_same(ours: tuple[bytes, bytes], theirs: tuple[bytes, bytes]) -> bool:
    """Return whether two messages are equal but for the order of their headers, and the times in them."""
    decoded = [_decoded(header) for header, _ in (ours, theirs)]
    for properties in decoded:
        for name in ("expires", PUBLISHED_AT):
            properties["application_headers"].pop(name, None)
    return decoded[0] == decoded[1] and ours[1] == theirs[1]


def _decoded(header: bytes) -> dict[str, Any]:
    properties: dict[str, Any]
    properties, _ = serialization.decode_properties_basic(header, _CONTENT_HEADER.size)
    return properties


def _fault(message: TaskMessage) -> str | None:
    """Return which argument or header cannot be serialised and why, None when each can be by itself."""
    arguments: list[tuple[str, Any]] = [(f"argument {n}", value) for n, value in enumerate(message.args, 1)]
    arguments += [(f"argument {name!r}", value) for name, value in message.kwargs.items()]
    for name, value in arguments:
        if message.serializer == SIGNED_PICKLE:  # which signs nothing but a task's body
            value = TaskBody.of(((value,), {}, {}), task_id=message.task_id, name=message.name, expires=None)
        try:
            dumps(value, serializer=message.serializer)
        except _NOT_ENCODABLE as exc:
            return f"{name} cannot be serialised: {_text(exc)}"
    for name, value in message.headers.items():
        try:
            _table_entries({name: value})
        except _NOT_ENCODABLE as exc:
            return f"header {name!r} cannot be serialised: {_text(exc)}"
    return None


def _text(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
