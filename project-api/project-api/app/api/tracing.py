"""The span of a request: FastAPI makes it; what is ours to say about it is said here.

How it works: FastAPI goes on with the trace that the request's `traceparent` names, if that is a valid one, and
names the span by the route. Probes and scrapes have none. A middleware adds the request's id, by which its log
lines are found, and takes away the query, which is a client's data.

What belongs here: what the span of a request says.
"""

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import context
from project_contracts import traces

_UNTRACED = ("/health", "/metrics")


def telemetry() -> TelemetryConfig:
    """Return what FastAPI is to do: spans of requests, where they are wanted, and nothing else."""
    return {
        "tracing": traces.are_wanted(),
        "metrics": False,  # `metrics.py`
        "logs": False,  # `middleware.py`; these would show exceptions' texts
        "operation_spans": False,
        "auto_configure": False,  # `app.core.tracing`
        "exclude": lambda scope: scope["path"].startswith(_UNTRACED),
    }


class SpanMiddleware:
    """Adds to the span of each request. It stands inside of `RequestContextMiddleware`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            span = trace.get_current_span()
            span.set_attribute("http.request.id", context.request_id.get() or "")
            if scope["query_string"]:
                span.set_attribute("url.query", "REDACTED")
        await self._app(scope, receive, send)
