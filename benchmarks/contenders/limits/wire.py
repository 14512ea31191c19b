"""AMQP and Redis with nothing in between: sockets that are logged in, and the bytes of a Celery task.

How it works: the handshake runs on a blocking socket with pamqp's frames; afterwards the socket is handed to an
asyncio protocol that reads and writes bytes. Nothing here is taken from our library: the limits must not move
with what they are to judge.

What belongs here: connecting, and building the frames that are sent again and again.
"""

import json
import socket
import struct
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import hiredis
from pamqp import base, body, commands, frame, header

CHANNEL = 1
_FRAME_MAX = 131072
_HEARTBEAT = 0  # off: these connections live for seconds
_TIMEOUT = 30  # s
_PLACE = "ffffffff-ffff-4fff-8fff-ffffffffffff"
"""Stands where the task's id goes; ids have one length, so replacing it keeps every size in the frames."""


def amqp(url: str) -> socket.socket:
    """Return a socket with an open AMQP connection and an open channel."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5672), _TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(frame.marshal(header.ProtocolHeader(), 0))
    _expect(connection, commands.Connection.Start)
    login = f"\0{unquote(parts.username or '')}\0{unquote(parts.password or '')}"
    properties = {"product": "benchmark", "capabilities": {"publisher_confirms": True, "basic.nack": True}}
    _send(connection, commands.Connection.StartOk(properties, "PLAIN", login, "en_US"), channel=0)
    tune = _expect(connection, commands.Connection.Tune)
    _send(connection, commands.Connection.TuneOk(tune.channel_max, _FRAME_MAX, _HEARTBEAT), channel=0)
    _send(connection, commands.Connection.Open(unquote(parts.path[1:]) or "/"), channel=0)
    _expect(connection, commands.Connection.OpenOk)
    call(connection, commands.Channel.Open(), commands.Channel.OpenOk)
    return connection


def call(connection: socket.socket, request: base.Frame, answer: type[base.Frame]) -> base.Frame:
    """Send a method on the channel and wait for its answer."""
    _send(connection, request, channel=CHANNEL)
    return _expect(connection, answer)


def _send(connection: socket.socket, request: base.Frame, *, channel: int) -> None:
    connection.sendall(frame.marshal(request, channel))


def _expect(connection: socket.socket, answer: type[base.Frame]) -> base.Frame:
    head = _exactly(connection, 7)
    (size,) = struct.unpack(">I", head[3:])
    _, _, got = frame.unmarshal(head + _exactly(connection, size + 1))
    if not isinstance(got, answer):
        raise ConnectionError(f"the broker answered {got!r} where {answer.__name__} belongs")
    return got


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("the broker has closed the connection: look at its log")
        data += piece
    return data


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield each complete frame's type (1 method, 2 header, 3 body) and payload."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= 8:
            size = int.from_bytes(data[at + 3 : at + 7], "big")
            if end - at < size + 8:
                break
            yield data[at], data[at + 7 : at + 7 + size]
            at += size + 8
        self._rest = data[at:]


class Message:
    """A no-op task as Celery's protocol 2 has it: built once, with a new id and argument put in per message."""

    def __init__(self, queue: str, *, ignore_result: bool = False) -> None:
        headers = {
            "lang": "py",
            "task": "noop",
            "id": _PLACE,
            "shadow": None,
            "eta": None,
            "expires": "2030-01-01T00:00:00.000000+00:00",
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": _PLACE,
            "parent_id": None,
            "argsrepr": "(1,)",
            "kwargsrepr": "{}",
            "origin": "benchmark@localhost",
            "ignore_result": ignore_result,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        }
        properties = commands.Basic.Properties(
            content_type="application/json",
            content_encoding="utf-8",
            headers=headers,
            delivery_mode=2,
            priority=0,
            correlation_id=_PLACE,
            reply_to=_PLACE,
            message_id=_PLACE,
        )
        self._properties = properties
        publish = commands.Basic.Publish(exchange="", routing_key=queue, mandatory=True)
        self._publish = frame.marshal(publish, CHANNEL)

    def encode(self, task_id: str, number: int) -> bytes:
        """Return the three frames of one message."""
        embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        content = json.dumps([[number], {}, embedded]).encode()
        head = frame.marshal(header.ContentHeader(body_size=len(content), properties=self._properties), CHANNEL)
        head = head.replace(_PLACE.encode(), task_id.encode())
        return self._publish + head + frame.marshal(body.ContentBody(content), CHANNEL)


def redis(url: str) -> socket.socket:
    """Return a socket that is logged in to Redis, with its database selected."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), _TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    words = hiredis.pack_command(("AUTH", unquote(parts.password or "")))
    words += hiredis.pack_command(("SELECT", parts.path[1:] or "0"))
    ask(connection, words, answers=2)
    return connection


def ask(connection: socket.socket, request: bytes, *, answers: int) -> list[object]:
    """Send packed commands and return their answers."""
    connection.sendall(request)
    reader = hiredis.Reader()
    got: list[object] = []
    while len(got) < answers:
        reader.feed(connection.recv(65536))
        while (answer := reader.gets()) is not False:
            if isinstance(answer, hiredis.ReplyError):
                raise answer
            got.append(answer)
    return got


def key(task_id: str) -> str:
    """Return the key, and channel, of a task's result."""
    return f"celery-task-meta-{task_id}"


def result(task_id: str, value: object) -> bytes:
    """Return a result as Celery's JSON serializer writes it."""
    meta = {
        "status": "SUCCESS",
        "result": value,
        "traceback": None,
        "children": [],
        "date_done": "2026-01-01T00:00:00.000000+00:00",
        "task_id": task_id,
    }
    return json.dumps(meta).encode()


def store(task_id: str, value: object) -> bytes:
    """Return the commands with which Celery's Redis backend stores and announces a result; 4 answers."""
    meta = result(task_id, value)
    return (
        hiredis.pack_command(("MULTI",))
        + hiredis.pack_command(("SETEX", key(task_id), 86400, meta))
        + hiredis.pack_command(("PUBLISH", key(task_id), meta))
        + hiredis.pack_command(("EXEC",))
    )
