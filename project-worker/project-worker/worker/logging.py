"""One line per task on stdout, as the API's lines are: readable, or JSON, with the same request id.

How it works: Celery asks who wants to set up logging (its signal `setup_logging`); we do, so it leaves the
root logger alone. Children inherit the handler when they are forked. What tasks print becomes lines, too. The
level is LOG_LEVEL, or what `-l` asks for when that shows more. A task's line is that of its outcome; that it was
received shows at DEBUG only. The API puts the id of its HTTP request into each message's headers
(`project_contracts.headers`); which message a line is about, in the main process or in a child, async_celery
knows. So one id finds the request's line and those of all its tasks.

What belongs here: what the worker's lines are about, and levels.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # older stubs
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, signals
from celery.app import trace
from celery.utils.log import get_multiprocessing_logger

from async_celery.worker import Subject, current_subject
from project_contracts import logs, traces
from project_contracts.headers import REQUEST_ID, is_request_id
from project_contracts.redaction import loggable
from worker.config import Settings

logger = logging.getLogger("worker")

_LINE = "%(asctime)s %(levelname)-7s %(processName)s %(name)s [%(request_id)s] %(message)s"

_DELAY = re.compile(r"(?:[01]\.){28}")
"""What kombu puts before the routing key of a task with a countdown: its seconds, bit by bit."""

_LONGEST_NAME = 256

_EVENTS = {
    trace.LOG_RECEIVED: ("task-received", "unknown"),
    trace.LOG_SUCCESS: ("task-succeeded", "success"),
    trace.LOG_FAILURE: ("task-failed", "failure"),
    trace.LOG_RETRY: ("task-retried", "unknown"),
    trace.LOG_IGNORED: ("task-ignored", "unknown"),
    trace.LOG_REJECTED: ("task-rejected", "failure"),
    "Task handler raised error: %r": ("task-failed", "failure"),  # the main process: its child died, say
    "Hard time limit (%ss) exceeded for %s[%s]": ("task-time-limit", "failure"),
    "Soft time limit (%ss) exceeded for %s[%s]": ("task-soft-time-limit", "unknown"),
    "Discarding revoked task: %s[%s]": ("task-revoked", "unknown"),
    "Task %s[%s] was cancelled: %s": ("task-revoked", "unknown"),
    "Task %s[%s] is given up: %s": ("task-given-up", "failure"),
    "Task %s[%s] is a dead letter (%s in %s): %s: %s": ("task-dead-letter", "failure"),
    "Task %s[%s] (%s in %s) is %s": ("task-dropped", "unknown"),  # too late, cancelled, or done before
}
"""`event.action` and `event.outcome` of the lines about a task's life, by their message: Celery's and ours."""


def install_logging(app: Celery, settings: Settings) -> None:
    """Have Celery use our logging when it starts; called again, the newest settings win."""
    form = logs.log_format(settings.log_format, settings.environment)

    def configure(loglevel: int, **_: Any) -> None:
        _configure_logging(form, settings, min(loglevel, logging.getLevelNamesMapping()[settings.log_level]))
        logger.info(
            "%s %s (%s): %s",
            settings.worker_name,
            settings.worker_version,
            settings.environment,
            settings.worker_description,
        )

    def take_over(instance: Any, **_: Any) -> None:
        # The banner goes past all loggers.
        instance.quiet = instance.quiet or form == "json"
        # Where Celery does it, when it sets up logging itself: what stops the start is still said on stderr.
        if app.conf.worker_redirect_stdouts:
            app.log.redirect_stdouts(app.conf.worker_redirect_stdouts_level)

    for signal, receiver in ((signals.setup_logging, configure), (signals.celeryd_after_setup, take_over)):
        signal.disconnect(dispatch_uid="worker.logging")
        signal.connect(receiver, weak=False, dispatch_uid="worker.logging")


def _configure_logging(form: logs.LogFormat, settings: Settings, level: int) -> None:
    get_multiprocessing_logger()  # made now, or it would not propagate
    logs.configure(
        form,
        level=level,
        about=_about,
        service={
            "name": settings.worker_name,
            "version": settings.worker_version,
            "environment": settings.environment,
        },
        console=_LINE,
        # Celery's: the arguments, and whatever else the message has been made of.
        hidden=frozenset({"data"}),
        shared=True,  # by the main process and its children
        passed_on=(SoftTimeLimitExceeded,),  # raised wherever the task is, also while it logs
        filters=[_show_the_cause],
        loggers={
            # Its one INFO line says that a message was received.
            "celery.worker.strategy": {"level": level if level < logging.INFO else logging.WARNING},
            # Its DEBUG lines hold the tasks' arguments.
            "celery.pool": {"level": max(level, logging.INFO)},
            # billiard's: of a child that died.
            "multiprocessing": {"level": "ERROR", "propagate": True},
        },
    )


def _show_the_cause(record: logging.LogRecord) -> bool:
    """Put the exception of a child that died in the place of billiard's, which has it as a text."""
    if record.exc_info and isinstance(wrapper := record.exc_info[1], ExceptionWithTraceback):
        cause = wrapper.exc
        record.exc_info = (type(cause), cause, cause.__traceback__)
    return True


def _about(record: logging.LogRecord) -> logs.Fields:
    subject = current_subject()
    if not subject.headers:
        return {logs.DATASET: logs.APP, "process.name": record.processName}
    headers = subject.headers
    fields = {logs.DATASET: logs.TASK, "process.name": record.processName, **_event(record, headers)}
    if is_request_id(request := headers.get(REQUEST_ID)):
        fields[logs.REQUEST_ID] = fields[logs.TRACE_ID] = request
    if (trace := traces.current()) is not None:
        fields[logs.TRACE_ID], fields[logs.SPAN_ID] = trace
    elif (sender := traces.parse(headers.get(traces.TRACEPARENT))) is not None:  # the main process has no spans
        fields[logs.TRACE_ID] = sender.trace_id
    for name, value in _task(subject).items():
        if isinstance(value, str):
            fields[f"celery.task.{name}"] = value if len(value) < _LONGEST_NAME else loggable(value)
    if isinstance(retries := headers.get("retries"), int):
        fields["celery.task.retries"] = retries
    return fields


def _task(subject: Subject) -> dict[str, object]:
    headers, routing_key = subject.headers, subject.delivery.get("routing_key")
    return {
        "id": headers.get("id"),
        "name": headers.get("task"),
        "queue": _DELAY.sub("", routing_key) if isinstance(routing_key, str) else None,
        "root_id": headers.get("root_id"),
        "parent_id": headers.get("parent_id"),
    }


def _event(record: logging.LogRecord, headers: Mapping[str, Any]) -> logs.Fields:
    event = _EVENTS.get(record.msg) if isinstance(record.msg, str) else None
    if event is None:
        return {}
    action, outcome = event
    fields: logs.Fields = {"event.action": action, "event.outcome": outcome}
    if (seconds := _duration(record, headers)) is not None:
        fields["event.duration"] = int(seconds * 1e9)
    return fields


def _duration(record: logging.LogRecord, headers: Mapping[str, Any]) -> float | None:
    """Return how long the run took that this line ends, in s."""
    data = record.__dict__.get("data")
    if isinstance(data, dict) and isinstance(runtime := data.get("runtime"), float):
        return runtime
    started = headers.get("started_at")  # by async_celery, when it began the run
    return record.created - started if isinstance(started, float) else None
