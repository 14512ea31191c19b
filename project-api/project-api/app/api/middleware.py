"""What every request passes through: its id, log line, figures and size limit, and the last net under errors.

How it works: pure ASGI (Starlette's BaseHTTPMiddleware breaks cancellation and context variables). The id
comes from `X-Request-ID` when it is short and printable, else it is made here; it stands in the response, in
every log line of the request, and in the headers of every message sent meanwhile. Its log line and its figures
(`metrics.py`) are made of one and the same, when it ends. The body is counted while it is read, so that a missing
or lying Content-Length does not help.

What belongs here: what is true of every request, whatever the endpoint.
"""

import logging
import os
import time
from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.metrics import HttpMetrics
from app.api.problems import problem_response
from app.api.routes import route_of
from app.core import context
from app.core.logging import Access
from project_contracts.headers import is_request_id

logger = logging.getLogger("app.access")

_REQUEST_ID = b"x-request-id"

_CANCELLED = 499
"""The status of a request that was cancelled before its answer began, at shutdown: nobody's error."""


class RequestContextMiddleware:
    """Gives each request its id, logs and counts it; answers 500 where nothing else did."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _proposed_id(scope) or os.urandom(16).hex()
        tasks: list[str] = []
        tokens = context.request_id.set(request_id), context.sent_tasks.set(tasks)
        status = received = sent = 0
        failure: str | None = None

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID, request_id.encode())]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        self._metrics.began(scope["method"])
        started = time.perf_counter_ns()
        try:
            await self._app(scope, counted_receive, send_with_id)
        except Exception as error:
            failure = type(error).__name__
            logger.exception("unhandled error")
            if status == 0:
                response = problem_response(
                    scope["path"],
                    500,
                    "Internal error",
                    "unexpected; the log has the details under requestId",
                )
                await response(scope, receive, send_with_id)
        finally:
            elapsed = time.perf_counter_ns() - started
            status = status or _CANCELLED
            access = Access(scope["method"], scope["path"], route_of(scope), status, elapsed, tasks)
            logger.info(access)
            failure = failure or scope.get("state", {}).get("failure")
            self._metrics.ended(access, received=received, sent=sent, failure=failure)
            context.request_id.reset(tokens[0])
            context.sent_tasks.reset(tokens[1])


def _proposed_id(scope: Scope) -> str | None:
    """Return the id that a client proposes; None where it is none. (Starlette's `Headers` would decode all.)"""
    proposed = next((value for name, value in scope["headers"] if name == _REQUEST_ID), b"").decode("latin-1")
    return proposed if is_request_id(proposed) else None


class BodyLimitMiddleware:
    """Refuses bodies that are too large with 413, whether their length is declared or not.

    FastAPI's own `max_body_size` does the same but answers in plain text when the length is declared.

    The rest of a body that is refused, for whatever reason, is not worth reading: the answer closes the
    connection. Without that, uvicorn reads and drops all of it.

    Args:
        app: what comes next.
        limit: the largest body, in bytes.
        streamed: other limits, by path, for endpoints that read their body while it arrives. JSON is read as a
            whole there, too, and has no other limit.
    """

    def __init__(self, app: ASGIApp, limit: int, streamed: Mapping[str, int]) -> None:
        self._app = app
        self._limit = limit
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with a bounded body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        more = declared != "0" or "transfer-encoding" in headers
        if not more:
            await self._app(scope, receive, send)
            return
        limit = self._limit_of(scope["path"], headers)
        detail = f"the body is larger than {limit} bytes"
        seen = 0

        async def counted_receive() -> Message:
            nonlocal more, seen
            message = await receive()
            more = message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > limit:
                # FastAPI lets an HTTPException through while it reads the body; problems.py answers it.
                raise HTTPException(413, detail)
            return message

        async def send_closing(message: Message) -> None:
            if more and message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        if declared.isdecimal() and int(declared) > limit:
            response = problem_response(scope["path"], 413, "Content Too Large", detail)
            await response(scope, receive, send_closing)
            return
        await self._app(scope, counted_receive, send_closing)

    def _limit_of(self, path: str, headers: Headers) -> int:
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        return self._limit if media_type == "application/json" else self._streamed.get(path, self._limit)
