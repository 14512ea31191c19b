"""What every request passes through: its id, its log line, its size limit, and the last net under errors.

How it works: pure ASGI (Starlette's BaseHTTPMiddleware breaks cancellation and context variables). The id
comes from `X-Request-ID` when it is short and printable, else it is made here; it stands in the response, in
every log line of the request, and in the headers of every message sent meanwhile. The body is counted while it
is read, so that a missing or lying Content-Length does not help.

What belongs here: what is true of every request, whatever the endpoint.
"""

import logging
import re
import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response
from app.core import context

logger = logging.getLogger("app.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestContextMiddleware:
    """Gives each request its id and its log line; answers 500 where nothing else did."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        proposed = Headers(scope=scope).get("x-request-id", "")
        request_id = proposed if _REQUEST_ID.fullmatch(proposed) else uuid.uuid4().hex
        token = context.request_id.set(request_id)
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
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
            milliseconds = (time.perf_counter() - started) * 1000
            logger.info("%s %s %d %.1f ms", scope["method"], scope["path"], status, milliseconds)
            context.request_id.reset(token)


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
