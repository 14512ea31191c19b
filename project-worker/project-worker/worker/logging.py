"""One readable line per event on stdout, the same format as the API's.

How it works: Celery asks who wants to set up logging (its signal `setup_logging`); we do, so it leaves the
root logger alone. Children inherit the handler when they are forked. The level is LOG_LEVEL, or what `-l`
asks for when that shows more.

What belongs here: handlers, formats, levels.
"""

import logging
import logging.config
from typing import Any

from celery import signals

from worker.config import Settings

logger = logging.getLogger("worker")


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
            "formatters": {
                "line": {"format": "%(asctime)s %(levelname)-7s %(processName)s %(name)s %(message)s"}
            },
            "handlers": {
                "stdout": {
                    "class": "logging.StreamHandler",
                    "stream": "ext://sys.stdout",
                    "formatter": "line",
                }
            },
            "root": {"handlers": ["stdout"], "level": level},
        }
    )
