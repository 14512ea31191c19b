"""Signed pickle: arguments that JSON cannot hold (a date, a Decimal, a dataclass), without pickle's danger.

How it works: unpickling runs whatever its author wants, so what comes from a queue is unpickled only if it was
signed with our key, and then only into classes that were named. A message's body is an envelope, one JSON object:

    kid            which key signed it: several may be accepted, so that keys can be changed while messages wait
    issued         when, in s since 1970
    expires        when the message itself expires; later it is stale, whatever its headers say
    id, name       the task that it was signed for: in another task's message it is worth nothing
    content_type   always `application/x-signed-pickle`
    pickle         of the task's `(args, kwargs, embed)`, in base64
    mac            HMAC-SHA256 over all the above

The MAC is taken of the envelope without it, written as JSON in this very order, without spaces, everything beyond
ASCII escaped. So an envelope has one spelling. Opening it makes that spelling again, with the MAC that it should
have, and compares the two texts in constant time: one comparison covers every byte. Key, MAC and expiry are
checked before the first byte is unpickled.

Two places of Celery meet it. `SigningAMQP`, the app's `amqp` class, tells the serializer whose body is to be
signed: every message that Celery's code makes passes there, also a worker's own retries, steps of chains and
bodies of chords. `check_envelope` is called by the worker's consumer (`worker/consumer.py`), which knows the
headers. What a replay would repeat has been done already: no task is run whose final state is stored
(`worker/task.py`).

`register` tells kombu, and so the whole process, about one `SignedPickle`. A process that only sends gets no
decoder: there is nothing in it that would unpickle.

What belongs here: the envelope, its keys, and the serializer for kombu. Which classes and keys is the caller's.
"""

import datetime
import hashlib
import hmac
import json
import pickle
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from io import BytesIO
from typing import Any, Self

from celery.app.amqp import AMQP
from celery.canvas import Signature
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu import serialization
from kombu.exceptions import DecodeError

CONTENT_TYPE = "application/x-signed-pickle"
SERIALIZER = "signed-pickle"
"""The name to send with: `serializer="signed-pickle"`."""

SHORTEST_KEY = 16  # bytes

PLAIN_CLASSES: tuple[type, ...] = (
    bytearray,
    complex,
    dict,
    frozenset,
    set,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    Decimal,
    uuid.UUID,
)
"""Classes that may always be unpickled. Making an instance of one does nothing else."""

_PICKLE_PROTOCOL = 5  # Python 3.8 and later


class EnvelopeRefused(DecodeError):  # noqa: N818 (named as those in errors.py)
    """A message that is not what it says, or is too late. Nothing of it was run.

    No error of the client's, but the `DecodeError` that Celery's consumer expects of a body that it cannot use.
    """


@dataclass(frozen=True, kw_only=True)
class KeyRing:
    """The keys that envelopes are accepted from, one of which signs.

    To change keys without refusing a message: add the new one to `accepted` everywhere; then sign with it and
    move the old one to `accepted`; remove the old one when the last message that it signed has expired.

    Attributes:
        signing: signs, and is accepted.
        accepted: further keys that are accepted.
    """

    signing: bytes = field(repr=False)
    accepted: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if any(len(key) < SHORTEST_KEY for key in (self.signing, *self.accepted)):
            raise ValueError(f"a key of signed pickle must have at least {SHORTEST_KEY} bytes")


class TaskBody(tuple[Any, ...]):
    """A task's body as Celery makes it, `(args, kwargs, embed)`, which knows whose body it is.

    Attributes:
        task_id: the task's id.
        name: its name.
        expires: when its message expires, in s since 1970; None for never.
    """

    task_id: str
    name: str
    expires: float | None

    @classmethod
    def of(cls, body: Iterable[Any], *, task_id: str, name: str, expires: float | None) -> Self:
        """Return `body` with what is known about it."""
        known = cls(body)
        known.task_id, known.name, known.expires = task_id, name, expires
        return known


class SignedPickle:
    """Seals and opens envelopes. Does no I/O; thread-safe."""

    def __init__(self, keys: KeyRing, *, classes: Iterable[type] = (), lifetime: float = 3600.0) -> None:
        """Take what is trusted.

        Args:
            keys: to sign with and to verify with.
            classes: what may be pickled and unpickled beside `PLAIN_CLASSES`: your dataclasses. Their instances
                are rebuilt without a call of `__init__`: what they hold is what was signed.
            lifetime: in s, of an envelope whose message names no expiry.
        """
        self._keys = {_key_id(key): key for key in (keys.signing, *keys.accepted)}
        self._signing_key_id = _key_id(keys.signing)
        self._classes = {(cls.__module__, cls.__qualname__): cls for cls in (*PLAIN_CLASSES, *classes)}
        self._lifetime = lifetime

    def seal(self, body: object) -> str:
        """Return the envelope of a task's body.

        Raises:
            TypeError: it is not known whose body it is.
            pickle.PicklingError: there is an instance of a class in it that the other side would not take.
        """
        if not isinstance(body, TaskBody):
            raise TypeError(
                "only a task's body can be signed: make the app with Celery(..., amqp=SigningAMQP), send a task"
            )
        now = time.time()
        envelope = _Envelope(
            kid=self._signing_key_id,
            issued=now,
            expires=now + self._lifetime if body.expires is None else body.expires,
            id=body.task_id,
            name=body.name,
            content_type=CONTENT_TYPE,
            pickle=b64encode(self._pickled(tuple(body))).decode(),
        )
        return envelope.sealed_with(self._keys[envelope.kid])

    def open(self, data: bytes | bytearray | memoryview | str) -> TaskBody:
        """Return the body in an envelope.

        Raises:
            EnvelopeRefused: it is none, it was not signed with a key of ours, it is stale, or there is something
                in it that may not be unpickled.
        """
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
        try:
            fields = json.loads(raw)
            del fields["mac"]
            envelope = _Envelope(**fields)
            key = self._keys.get(envelope.kid)
            expected = envelope.sealed_with(key or b"")
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
            raise EnvelopeRefused("the message is no envelope of signed pickle") from exc
        if key is None:
            raise EnvelopeRefused("the envelope was signed with a key that is not accepted here")
        if not hmac.compare_digest(expected.encode(), raw):
            raise EnvelopeRefused("the envelope's signature does not match its content")
        # From here on it is known to be ours.
        if envelope.content_type != CONTENT_TYPE:
            raise EnvelopeRefused("the envelope was signed for another content type")
        late = time.time() - envelope.expires
        if not late < 0:
            raise EnvelopeRefused(f"the envelope is stale: it expired {late:.3f} s ago")
        body = self._unpickled(b64decode(envelope.pickle))
        return TaskBody.of(body, task_id=envelope.id, name=envelope.name, expires=envelope.expires)

    def _pickled(self, value: Any) -> bytes:
        buffer = BytesIO()
        _Pickler(buffer, frozenset(self._classes.values())).dump(value)
        return buffer.getvalue()

    def _unpickled(self, pickled: bytes) -> tuple[Any, ...]:
        try:
            body = _Unpickler(BytesIO(pickled), self._classes).load()
        except Exception as exc:  # a broken pickle raises whatever comes up
            raise EnvelopeRefused(f"the envelope's pickle cannot be read: {exc}") from exc
        match body:
            case tuple((tuple() | list(), dict(), dict())):
                return body
        raise EnvelopeRefused("the envelope holds no task's body")


def register(signed_pickle: SignedPickle, *, opens: bool) -> None:
    """Make `signed-pickle` a serializer of this process; what was registered before is replaced.

    Args:
        signed_pickle: seals, and opens.
        opens: whether this process may also decode it. An app that does must name it in `accept_content`.
    """
    kombu: Any = serialization
    if SERIALIZER in kombu.registry.name_to_type:
        kombu.unregister(SERIALIZER)
    kombu.register(SERIALIZER, signed_pickle.seal, signed_pickle.open if opens else None, CONTENT_TYPE, "utf-8")
    # As kombu does with its own pickle: only for who asks for it by name.
    kombu.registry.disable(SERIALIZER)


def check_envelope(message: Any) -> None:
    """Refuse a message whose envelope was signed for another task, and what is unsigned where signing counts.

    Args:
        message: kombu's, decoded or about to be.

    Raises:
        EnvelopeRefused: the message is not to be run.
        kombu.exceptions.DecodeError: its body cannot be decoded.
        kombu.exceptions.ContentDisallowed: its content type is not accepted.
    """
    body = message.payload
    if isinstance(body, TaskBody):
        if (body.task_id, body.name) != (message.headers.get("id"), message.headers.get("task")):
            raise EnvelopeRefused(
                f"the envelope was signed for {body.name}[{body.task_id}], not for the task in the headers"
            )
    elif CONTENT_TYPE in (message.accept or ()):
        # kombu itself lets `application/data` and `application/text` pass every list of accepted types.
        raise EnvelopeRefused(f"the message is not signed: its content type is {message.content_type}")


class SigningAMQP(AMQP):
    """Celery's `amqp` class with the one change that lets a task's message be signed."""

    def as_task_v2(self, task_id: str, name: str, *args: Any, **options: Any) -> Any:
        """Return the message; where it is to be signed, its body knows whose it is."""
        message = super().as_task_v2(task_id, name, *args, **options)
        if (options.get("serializer") or self.app.conf.task_serializer) != SERIALIZER:
            return message
        # As the message will have them: Celery adds those of the caller later.
        headers = {**message.headers, **(options.get("headers") or {})}
        expires = maybe_iso8601(headers["expires"])
        body = TaskBody.of(
            message.body,
            task_id=headers["id"],
            name=headers["task"],
            expires=maybe_make_aware(expires, tz=self.app.timezone).timestamp() if expires else None,
        )
        return message._replace(body=body)


@dataclass(frozen=True, kw_only=True)
class _Envelope:
    """What is signed, in the order in which it is written."""

    kid: str
    issued: float
    expires: float
    id: str
    name: str
    content_type: str
    pickle: str

    def sealed_with(self, key: bytes) -> str:
        """Return the whole envelope in its one spelling."""
        fields = asdict(self)
        mac = hmac.digest(key, _spelled(fields).encode(), hashlib.sha256)
        return _spelled({**fields, "mac": mac.hex()})


def _spelled(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _key_id(key: bytes) -> str:
    """Return a name for a key that says nothing about it."""
    return hmac.digest(key, b"async_celery.signed_pickle key id", hashlib.sha256)[:8].hex()


class _Pickler(pickle.Pickler):
    """Refuses at the sender what the receiver would refuse."""

    def __init__(self, file: BytesIO, classes: frozenset[type]) -> None:
        super().__init__(file, protocol=_PICKLE_PROTOCOL)
        self._allowed = classes

    def reducer_override(self, value: Any) -> Any:
        """Decide about everything but None, numbers, text, bytes and exact lists, tuples, dicts and sets."""
        if isinstance(value, Signature):
            # The rest of a workflow travels as JSON has it: Celery makes signatures of dicts again.
            return dict, (dict(value),)
        cls = value if isinstance(value, type) else type(value)
        if cls not in self._allowed:
            raise pickle.PicklingError(
                f"{cls.__module__}.{cls.__qualname__} is none of the classes that may be unpickled: "
                "register it on both sides, or send plain values"
            )
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Knows a few classes, and imports nothing."""

    def __init__(self, file: BytesIO, classes: dict[tuple[str, str], type]) -> None:
        super().__init__(file)
        self._classes = classes

    def find_class(self, module: str, name: str) -> type:
        """Return a class by the name in the pickle; the one door to anything that could be called."""
        try:
            return self._classes[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"{module}.{name} is none of the classes that may be unpickled"
            ) from None
