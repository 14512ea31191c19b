"""Log lines on stdout: one handler for all loggers of a process, in one of two formats.

How it works: `configure` is called once per process. `console` is for people, one readable line per event;
`json` is for Elasticsearch, one ECS document per line (`ecs.py`). What a line is about, the request and the task,
the project says: a function from a record to ECS fields. A message that is written all the time may be an
`Event`, which knows its own fields and writes its own JSON. Both formats show what `redaction.py` lets pass. The
processes of a worker write to one pipe: `LineHandler` has them take turns.

What belongs here: handlers, formats, and what the lines of both projects have in common.
"""

import fcntl
import logging
import logging.config
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, TextIO, TypeAlias

from project_contracts.redaction import LONGEST_TRACE, loggable

LogFormat: TypeAlias = Literal["json", "console"]
LogLevel: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Environment: TypeAlias = Literal["development", "production"]

Fields: TypeAlias = dict[str, Any]
"""ECS fields by their dotted names."""

REQUEST_ID = "http.request.id"
TRACE_ID = "trace.id"
"""What belongs together, for whoever follows it from a metric to its lines: without traces, the request."""
SPAN_ID = "span.id"
DATASET = "event.dataset"
APP, ACCESS, TASK = "fsfc.app", "fsfc.access", "fsfc.task"
"""Datasets: where Filebeat sends a line."""


class Event(Protocol):
    """A message that is more than a text. Whatever it says has no secret, and an end (`redaction.py`)."""

    def __str__(self) -> str:
        """Return it for people, on one line."""

    def fields(self) -> Fields:
        """Return what it is about."""

    def json(self) -> str:
        """Return both as the members of a JSON object, `message` first, without the braces."""


def log_format(chosen: LogFormat | None, environment: Environment) -> LogFormat:
    """Return the format in force: people read in development, machines in production, unless it is chosen."""
    return chosen or ("json" if environment == "production" else "console")


def configure(
    form: LogFormat,
    *,
    level: int | str,
    about: Callable[[logging.LogRecord], Fields],
    service: Mapping[str, str],
    console: str,
    events: tuple[type[Event], ...] = (),
    hidden: frozenset[str] = frozenset(),
    shared: bool = False,
    passed_on: tuple[type[Exception], ...] = (),
    filters: Sequence[Callable[[logging.LogRecord], bool]] = (),
    loggers: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """Install the one handler that all loggers of the process share.

    Args:
        form: which format.
        level: of the root logger.
        about: says what a record is about, `event.dataset` included; of an event, what it does not say itself.
        service: `name`, `version` and `environment` of the process.
        console: the console's format; it may contain `%(request_id)s`.
        events: classes whose messages know what they are about.
        hidden: names of extras that are not shown.
        shared: whether other processes write to the same pipe.
        passed_on: what is raised anywhere, as a signal's handler does it, and is no fault of a record.
        filters: may change a record, or say no to it.
        loggers: other loggers, as `logging.config` has them.
    """
    formatters: dict[LogFormat, dict[str, object]] = {
        # By name: a process that does not write JSON needs no ecs-logging.
        "json": {
            "()": "project_contracts.ecs.EcsFormatter",
            "about": about,
            "service": service,
            "events": events,
            "hidden": hidden,
            "passed_on": passed_on,
        },
        "console": {"()": ConsoleFormatter, "line": console, "about": about},
    }
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": formatters[form]},
            "handlers": {
                "stdout": {
                    "()": LineHandler,
                    "stream": "ext://sys.stdout",
                    "shared": shared,
                    "passed_on": passed_on,
                    "formatter": "line",
                    "filters": filters,
                }
            },
            "root": {"handlers": ["stdout"], "level": level},
            "loggers": loggers or {},
        }
    )
    logging.captureWarnings(True)
    # None of our lines shows them, and to find them out is half of what a record costs (Python's logging HOWTO,
    # "Optimization").
    logging.logThreads = logging.logProcesses = False
    logging._srcfile = None  # documented there; `stack_info` goes with it


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each line in one piece, whoever else writes to the same pipe.

    A pipe takes 4 KiB at once, and more only while it has room: a failure's line could be parted by another's.
    The lock is the pipe's own, for this process: it goes with it, however the process ends. Files need none, nor
    does a pipe of one process."""

    def __init__(self, stream: TextIO, shared: bool, passed_on: tuple[type[Exception], ...]) -> None:
        super().__init__(stream)
        self._pipe = _pipe_of(stream) if shared else None
        # The first as in `logging`: to handle it may be one more.
        self._raised: tuple[type[Exception], ...] = (RecursionError, *passed_on)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line when nobody else writes."""
        try:
            line = self.format(record) + self.terminator
            if self._pipe is None:
                self._write(line)
                return
            try:
                fcntl.lockf(self._pipe, fcntl.LOCK_EX)
                self._write(line)
            finally:
                fcntl.lockf(self._pipe, fcntl.LOCK_UN)
        except self._raised:
            raise
        except Exception:
            self.handleError(record)

    def _write(self, line: str) -> None:
        self.stream.write(line)
        self.stream.flush()


def _pipe_of(stream: TextIO) -> int | None:
    """Return the pipe's descriptor; None if it is none."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a buffer, or closed
        return None
    return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None


class ConsoleFormatter(logging.Formatter):
    """A readable line, with the id of the request that it belongs to; `-` where there is none."""

    def __init__(self, line: str, about: Callable[[logging.LogRecord], Fields]) -> None:
        super().__init__(line)
        self._about = about

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the line without a traceback."""
        record.message = loggable(record.message)
        record.request_id = self._about(record).get(REQUEST_ID, "-")
        return super().formatMessage(record)

    def formatException(  # noqa: N802 (logging's name)
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return the traceback."""
        return loggable(super().formatException(ei), LONGEST_TRACE)
