"""Spans of SQL statements, for OpenTelemetry.

How it works: SQLAlchemy's events enclose each statement that it runs. What goes round it (`Database.read`), and
what it gives to the driver in other ways (BEGIN, COMMIT, many rows at once), the driver tells of: how long it
took, when it has ended. COPY nobody tells of. What belongs to no trace, as what is done beside requests, makes
no span.

What belongs here: all that knows OpenTelemetry. `open_database(traced=True)` imports it.
"""

import re
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from asyncpg.connection import LoggedQuery
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

_LONGEST_TEXT = 2000  # characters of a statement; an INSERT of a thousand rows says no more than of ten

_TABLE = re.compile(r'\b(?:FROM|INTO|UPDATE|JOIN)\s+"?(\w+)', re.IGNORECASE)

_BEGAN = "project_database_began"
"""When a statement began, in ns since 1970: an attribute of SQLAlchemy's context of its execution."""


class StatementSpans:
    """Makes a span of each statement of one engine. The values that it is run with are not kept."""

    def __init__(self, engine: Engine) -> None:
        """Listen to the engine. Whoever raises another error in its `handle_error` must listen later."""
        self._tracer = trace.get_tracer("project_database", _version())
        self._attributes: dict[str, str | int] = {
            "db.system.name": "postgresql",
            "db.namespace": engine.url.database or "",
            "server.address": engine.url.host or "",
            "server.port": engine.url.port or 0,
        }
        event.listen(engine, "before_cursor_execute", self._began)
        event.listen(engine, "after_cursor_execute", self._ended)
        event.listen(engine, "handle_error", self._failed)

    def told_by_driver(self, query: LoggedQuery) -> None:
        """Take note of a statement that has ended, one turn of the loop ago at most."""
        now = time.time_ns()
        self._add(query.query, now - int(query.elapsed * 1e9), now, query.exception)

    def _began(self, *arguments: Any) -> None:
        _connection, _cursor, _statement, _parameters, context, is_many = arguments
        if not is_many:  # of which the driver tells
            setattr(context, _BEGAN, time.time_ns())

    def _ended(self, *arguments: Any) -> None:
        _connection, _cursor, statement, _parameters, context, is_many = arguments
        if not is_many:
            self._add(statement, getattr(context, _BEGAN), time.time_ns(), None)

    def _failed(self, context: ExceptionContext) -> None:
        began = getattr(context.execution_context, _BEGAN, None)
        if began is not None and context.statement is not None:
            self._add(context.statement, began, time.time_ns(), context.original_exception)

    def _add(self, statement: str, began: int, ended: int, error: BaseException | None) -> None:
        # It may have ended meanwhile: the driver tells of the last statement when the answer is on its way.
        if not trace.get_current_span().get_span_context().is_valid:
            return
        operation, summary = _summary(statement)
        span = self._tracer.start_span(
            summary,
            kind=SpanKind.CLIENT,
            attributes={
                **self._attributes,
                "db.operation.name": operation,
                "db.query.summary": summary,
                "db.query.text": statement[:_LONGEST_TEXT],
            },
            start_time=began,
        )
        if error is not None:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
        span.end(ended)


@lru_cache(maxsize=512)
def _summary(sql: str) -> tuple[str, str]:
    """Return what a statement does, and that with the first table that it names."""
    operation = sql.split(None, 1)[0].rstrip(";").upper() if sql.strip() else "?"
    table = _TABLE.search(sql)
    return operation, operation if table is None else f"{operation} {table[1]}"


def _version() -> str | None:
    try:
        return version("project-database")
    except PackageNotFoundError:  # it is on the path, not installed
        return None
