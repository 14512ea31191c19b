"""One readable line per event on stdout, each with the id of its request.

How it works: `configure_logging` is called once by `create_app`, after uvicorn has installed its own handlers,
and replaces them. uvicorn's access log is switched off: `app/api/middleware.py` writes that line, with the
request id and the duration.

What belongs here: handlers, formats, levels.
"""

import logging
import logging.config

from app.core.context import request_id


class RequestIdFilter(logging.Filter):
    """Puts the current request's id on each record, `-` outside of a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id`, keep the record."""
        record.request_id = request_id.get() or "-"
        return True


def configure_logging(level: str) -> None:
    """Install the one handler that all loggers of the process share."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request_id": {"()": RequestIdFilter}},
            "formatters": {
                "line": {"format": "%(asctime)s %(levelname)-7s %(name)s [%(request_id)s] %(message)s"}
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
            "loggers": {
                "uvicorn": {"handlers": [], "level": level, "propagate": True},
                "uvicorn.error": {"handlers": [], "level": level, "propagate": True},
                "uvicorn.access": {"handlers": [], "level": "WARNING", "propagate": False},
            },
        }
    )
