"""One line per event on stdout, each with the id of its request: readable, or JSON (`project_contracts.logs`).

How it works: `configure_logging` is called once by `create_app`, after uvicorn has installed its own handlers,
and replaces them. uvicorn's access log is switched off: `app/api/middleware.py` writes that line, as an `Access`.
Most of its JSON is the same for all requests with one method, route and status: that is kept.

What belongs here: what the API's lines are about, and levels.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii as encode
from typing import NamedTuple
from urllib.parse import quote

from app.core.config import Settings
from app.core.context import request_id
from project_contracts import logs, traces
from project_contracts.redaction import loggable

_MOST_TASKS = 10
"""An access line names no more."""

_LONGEST_METHOD = 32
"""Of a longer one, the beginning is shown: those that HTTP knows have half of that. What is kept has an end."""

_LINE = "%(asctime)s %(levelname)-7s %(name)s [%(request_id)s] %(message)s"


class Access(NamedTuple):
    """A request that was served: the message of its log line, an `Event`. A tuple, which is made in no time.

    Attributes:
        method: as it came.
        path: as it came, without the query.
        route: the path's template.
        status: the answer's; 499 where there was none, because it was cancelled.
        nanoseconds: from the request's head to the answer's end.
        tasks: the ids of the tasks that it sent.
    """

    method: str
    path: str
    route: str
    status: int
    nanoseconds: int
    tasks: Sequence[str] = ()

    def __str__(self) -> str:
        sent = f", sent {', '.join(self.tasks[:_MOST_TASKS])}" if self.tasks else ""
        path = _readable(loggable(self.path))
        return f"{_method(self.method)} {path} {self.status} {self.nanoseconds / 1e6:.1f} ms{sent}"

    def fields(self) -> logs.Fields:
        """Return it as ECS has it."""
        fields: logs.Fields = {
            logs.DATASET: logs.ACCESS,
            "event.action": "http-request",
            "event.outcome": _outcome(self.status),
            "http.request.method": _method(self.method),
            "http.response.status_code": self.status,
            "http.route": self.route,
            "url.path": loggable(self.path),
            "event.duration": self.nanoseconds,
        }
        if self.tasks:
            fields["celery.task.id"] = self.tasks[0] if len(self.tasks) == 1 else self.tasks[:_MOST_TASKS]
        return fields

    def json(self) -> str:
        """Return the same as the members of a JSON object."""
        method, constant = _constant(self.method[:_LONGEST_METHOD], self.route, self.status)
        # A route's own path is one of few.
        shown, path = (_path_of_route if self.path == self.route else _path)(self.path)
        sent = ids = ""
        if self.tasks:
            texts = [encode(task) for task in self.tasks[:_MOST_TASKS]]
            sent = f", sent {', '.join(text[1:-1] for text in texts)}"
            ids = f',"celery.task.id":{texts[0]}' if len(texts) == 1 else f',"celery.task.id":[{",".join(texts)}]'
        return (
            f'"message":"{method} {shown} {self.status} {self.nanoseconds / 1e6:.1f} ms{sent}",{constant},'
            f'"url.path":{path},"event.duration":{self.nanoseconds}{ids}'
        )


@lru_cache(maxsize=1024)
def _constant(method: str, route: str, status: int) -> tuple[str, str]:
    """Return the method for the message, and the fields that follow from the three, as JSON."""
    method = _method(method)
    fields = (
        f'"{logs.DATASET}":"{logs.ACCESS}","event.action":"http-request","event.outcome":"{_outcome(status)}",'
        f'"http.request.method":{encode(method)},"http.response.status_code":{status},"http.route":{encode(route)}'
    )
    return encode(method)[1:-1], fields


def _path(path: str) -> tuple[str, str]:
    """Return the path for the message, and the field, as JSON."""
    path = loggable(path)
    field = encode(path)
    readable = _readable(path)
    return (field if readable is path else encode(readable))[1:-1], field


_path_of_route = lru_cache(maxsize=1024)(_path)


def _readable(path: str) -> str:
    """Return the path as people read it: once it is unquoted, it is anything, also an end of line."""
    return path if path.isprintable() else loggable(quote(path))


def _method(method: str) -> str:
    return loggable(method[:_LONGEST_METHOD])


def _outcome(status: int) -> str:
    if status == 499:  # the client did not wait for it
        return "unknown"
    return "failure" if status >= 500 else "success"


def configure_logging(settings: Settings) -> None:
    """Install the one handler that all loggers of the process share."""
    logs.configure(
        logs.log_format(settings.log_format, settings.environment),
        level=settings.log_level,
        about=_about,
        service={
            "name": settings.api_name,
            "version": settings.api_version,
            "environment": settings.environment,
        },
        console=_LINE,
        events=(Access,),
        hidden=frozenset({"color_message"}),  # uvicorn's: the message again, with a terminal's colours
        loggers={
            "uvicorn": {"handlers": [], "level": settings.log_level, "propagate": True},
            "uvicorn.error": {"handlers": [], "level": settings.log_level, "propagate": True},
            "uvicorn.access": {"handlers": [], "level": "WARNING", "propagate": False},
        },
    )


def _about(record: logging.LogRecord) -> logs.Fields:
    fields: logs.Fields = {} if isinstance(record.msg, Access) else {logs.DATASET: logs.APP}
    current = request_id.get()
    if current is not None:
        fields[logs.REQUEST_ID] = fields[logs.TRACE_ID] = current
    if (trace := traces.current()) is not None:
        fields[logs.TRACE_ID], fields[logs.SPAN_ID] = trace
    return fields
