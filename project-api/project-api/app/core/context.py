"""The request that is being served, for code that has no request at hand (logging, message headers).

What belongs here: context variables, and the one way they are read.
"""

from contextvars import ContextVar

from project_contracts.headers import REQUEST_ID

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current HTTP request; it travels with every message sent meanwhile."""


def message_headers() -> dict[str, str]:
    """Return what every message carries about the request it is sent for; nothing outside of a request."""
    current = request_id.get()
    return {} if current is None else {REQUEST_ID: current}
