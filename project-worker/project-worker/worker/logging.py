"""One readable line per task on stdout, the same format as the API's, with the same request id.

How it works: Celery asks who wants to set up logging (its signal `setup_logging`); we do, so it leaves the
root logger alone. Children inherit the handler when they are forked. The level is LOG_LEVEL, or what `-l`
asks for when that shows more. A task's line is that of its outcome; that it was received shows at DEBUG only.
The API puts the id of its HTTP request into each message's headers (`project_contracts.headers`), so that one id
finds the request's line and those of all its tasks.

What belongs here: handlers, formats, levels.
"""

import logging
import logging.config
from typing import Any

from celery import signals
from celery._state import get_current_task

from project_contracts.headers import REQUEST_ID
from worker.config import Settings

logger = logging.getLogger("worker")


class RequestIdFilter(logging.Filter):
    """Puts the id of the HTTP request behind the running task on each record; `-` where there is none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id`, keep the record."""
        task = get_current_task()
        record.request_id = (task and task.request.get(REQUEST_ID)) or "-"
        return True


def install_logging(settings: Settings) -> None:
    """Have Celery use our logging when it starts; called again, the newest settings win."""

    def configure(loglevel: int, **_: Any) -> None:
        _configure_logging(min(loglevel, logging.getLevelNamesMapping()[settings.log_level]))
        logger.info(
            "%s %s (%s): %s",
            settings.worker_name,
            settings.worker_version,
            settings.environment,
            settings.worker_description,
        )

    signals.setup_logging.disconnect(dispatch_uid="worker.logging")
    signals.setup_logging.connect(configure, weak=False, dispatch_uid="worker.logging")


def _configure_logging(level: int) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request_id": {"()": RequestIdFilter}},
            "formatters": {
                "line": {
                    "format": "%(asctime)s %(levelname)-7s %(processName)s %(name)s [%(request_id)s] %(message)s"
                }
            },
            "handlers": {
                "stdout": {
                    "class": "logging.StreamHandler",
                    "stream": "ext://sys.stdout",
                    "filters": ["request_id"],
                    "formatter": "line",
                }
            },
            "root": {"handlers": ["stdout"], "level": level},
            # Its one INFO line says that a message was received.
            "loggers": {"celery.worker.strategy": {"level": level if level < logging.INFO else logging.WARNING}},
        }
    )
