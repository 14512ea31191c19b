"""JSON log lines: a document of the Elastic Common Schema on each, its fields under their dotted names.

How it works: nearly every record is a message and no more. Its document is put together here, in a tenth of the
time, and is what ecs-logging makes of it; an `Event` brings its part. Records with an exception or with extras go
through ecs-logging. That raises where names contradict each other (`extra={"error": …}` beside an exception,
`extra={"log": …}`, `"a"` beside `"a.b"`), and `logging` would drop the line; an empty name (`"a."`) it writes,
and Elasticsearch would refuse the document. The extras are then texts under `labels`, which no name can
contradict. Whatever else goes wrong with a record, a line says so.

What belongs here: from a record to a line. What a line is about, each project says (`logs.configure`).
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ecs_logging import ECS_VERSION, StdlibFormatter

from project_contracts.logs import APP, DATASET, Event, Fields
from project_contracts.redaction import LONGEST_TRACE, loggable, loggable_value

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
"""Attributes of every record; formatters add the last two."""

_UNTOLD: Fields = dict.fromkeys(
    ("filename", "funcName", "lineno", "process", "processName", "thread", "threadName"), None
)
"""Attributes that ecs-logging would show."""

_DOTS = re.compile(r"[.\s]")
"""What a label's name must not have."""

_encode = json.JSONEncoder(separators=(",", ":"), default=repr).encode
_string = json.encoder.encode_basestring_ascii
_SHORT: dict[type, Callable[[Any], str]] = {str: _string, int: repr}
"""What `_encode` gives for these, several times as fast."""


class EcsFormatter(StdlibFormatter):
    """Writes a record as one line of JSON; loses none."""

    def __init__(
        self,
        *,
        about: Callable[[logging.LogRecord], Fields],
        service: Mapping[str, str],
        events: tuple[type[Event], ...] = (),
        hidden: frozenset[str] = frozenset(),
        passed_on: tuple[type[Exception], ...] = (),
    ) -> None:
        """Take what `logs.configure` is given."""
        super().__init__(exclude_fields=["log.original", "error.stack_trace"])
        self._about = about
        self._service = {f"service.{name}": value for name, value in service.items()}
        self._constant = _encode({"ecs.version": ECS_VERSION, **self._service})[1:-1]
        self._events = events
        self._standard = _STANDARD | hidden
        self._passed_on = passed_on
        self._second = (-1, "")  # the last one that a line was of, and its text

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        try:
            if record.exc_info or record.stack_info or not self._standard.issuperset(record.__dict__):
                return _encode(self._by_ecs_logging(record))
            return self._plain(record)
        except self._passed_on:
            raise
        except Exception as error:  # whatever is in the record: its line must not be lost
            return _encode(self._least(record, error))

    def _plain(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, self._events):
            members = record.msg.json()
        else:
            members = f'"message":{_string(loggable(record.getMessage()))}'
        front = (
            f'{{"@timestamp":"{self._instant(record)}","log.level":"{record.levelname.lower()}",'
            f'{members},"log.logger":{_string(record.name)},'
        )
        about = [
            f',"{name}":{_SHORT.get(type(value), _encode)(value)}' for name, value in self._about(record).items()
        ]
        return "".join((front, self._constant, *about, "}"))

    def _by_ecs_logging(self, record: logging.LogRecord) -> Fields:
        extras = record.__dict__.keys() - self._standard
        message, about = self._told(record)
        own = {**_UNTOLD, "name": record.name, "levelname": record.levelname, "exc_info": record.exc_info}
        own |= {"msg": message, "ecs.version": ECS_VERSION, **self._service, **about}
        given = {name: loggable_value(record.__dict__[name], name) for name in sorted(extras)}
        try:
            fields = self._document(given | own)
        except (TypeError, ValueError):
            labels = {f"labels.{_DOTS.sub('_', name) or '_'}": _text(value) for name, value in given.items()}
            fields = self._document(labels | own)
        fields = {"@timestamp": self._instant(record), **fields}
        if "error.message" in fields:
            fields["error.message"] = loggable(str(fields["error.message"]))
        stack = [self.formatException(record.exc_info)] if record.exc_info else []
        stack += [self.formatStack(record.stack_info)] if record.stack_info else []
        if stack:
            # ecs-logging's own leaves out the exceptions behind the exception.
            fields["error.stack_trace"] = loggable("\n".join(stack), LONGEST_TRACE)
        return fields

    def _told(self, record: logging.LogRecord) -> tuple[str, Fields]:
        about = self._about(record)
        if isinstance(record.msg, self._events):
            return str(record.msg), {**record.msg.fields(), **about}
        return loggable(record.getMessage()), about

    def _document(self, attributes: Mapping[str, Any]) -> Fields:
        """Return what ecs-logging makes of a record's attributes.

        Raises:
            TypeError, ValueError: names contradict each other, or one is none to Elasticsearch.
        """
        fields = dict(_flattened(self.format_to_ecs(logging.makeLogRecord(attributes))))
        for name in fields:
            if not all(map(str.strip, name.split("."))):
                raise ValueError(f"{name!r} has an empty part")
        return fields

    def _least(self, record: logging.LogRecord, error: Exception) -> Fields:
        try:
            about = self._about(record)
        except self._passed_on:
            raise
        except Exception:  # the line says what was wrong first
            about = {}
        return {
            "@timestamp": self._instant(record),
            "log.level": record.levelname.lower(),
            "message": _text(loggable_value(record.msg)),
            "ecs.version": ECS_VERSION,
            "log.logger": record.name,
            **self._service,
            DATASET: APP,
            **about,
            "labels.log_error": f"{type(error).__name__}: {_text(loggable_value(error))}",
        }

    def _instant(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        known, text = self._second
        if second != known:
            text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            self._second = second, text
        return f"{text}{int(record.msecs):03d}Z"


def _flattened(document: Mapping[str, Any], front: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{front}{name}.")
        else:
            yield f"{front}{name}", value


def _text(value: object) -> str:
    return value if isinstance(value, str) else _encode(value)
