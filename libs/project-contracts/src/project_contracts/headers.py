"""Message headers of our own, beside Celery's.

What belongs here: header names, and what may stand in them. Never `correlation_id`: Celery overwrites it.
"""

import re

REQUEST_ID = "x-request-id"
"""The id of the HTTP request that a task was sent for; the same name as the HTTP header."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def is_request_id(value: object) -> bool:
    """Return whether this can be a request's id: whoever sends the header can write anything into it."""
    return isinstance(value, str) and _REQUEST_ID.fullmatch(value) is not None
