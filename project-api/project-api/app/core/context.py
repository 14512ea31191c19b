"""The request that is being served, for code that has no request at hand (logging, message headers).

What belongs here: context variables, nothing that computes.
"""

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current HTTP request; it travels with every message sent meanwhile."""
