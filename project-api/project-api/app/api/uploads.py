"""Files in the body of a request, read while they arrive.

How it works: a file is never in memory as a whole, so it may be larger than other bodies; the middleware counts
it. Each one holds a connection to PostgreSQL while it comes in: so there are few at a time, and one that stalls
is given up. Other requests get their turn after every few kilobytes.

What belongs here: reading such a body. What it says is read by `app/core/records.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from email.message import Message

from fastapi import Request
from starlette.exceptions import HTTPException

from app.api.problems import ClientGoneError
from app.core.config import Settings
from app.core.idempotency import Fingerprint

_BUSY = {"Retry-After": "10"}  # s; a file of 30 MB takes about as long
_SLICE = 8 * 1024  # bytes handed on at a time; even if each were a row of its own, that is 20 ms of work


class Uploads:
    """The uploads of this process: how many there are, how long each may take."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_uploads
        self._idle = settings.upload_idle_seconds
        self._longest = settings.upload_seconds
        self._now = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one more upload for as long as the block runs.

        Raises:
            HTTPException: 503, there are as many as there may be.
        """
        if self._now == self._most:
            detail = f"{self._now} files are being uploaded, which is as many as there may be: send yours again"
            raise HTTPException(503, detail, _BUSY)
        self._now += 1
        try:
            yield
        finally:
            self._now -= 1

    async def slices(self, request: Request, fingerprint: Fingerprint, *, task_id: str) -> AsyncIterator[bytes]:
        """Yield a request's body; each slice has been added to the fingerprint.

        Raises:
            HTTPException: 408, nothing came for too long, or it takes too long altogether; 413, from the
                middleware.
            ClientGoneError: the client has closed its connection.
        """
        now = asyncio.get_running_loop().time
        end = now() + self._longest
        more = True
        while more:
            try:
                async with asyncio.timeout_at(min(now() + self._idle, end)):
                    message = await request.receive()
            except TimeoutError:
                late = now() >= end
                cause = (
                    f"it takes longer than {self._longest:g} s" if late else f"nothing came for {self._idle:g} s"
                )
                detail = f"the upload was given up, {cause}; nothing was kept: send the file again"
                raise HTTPException(408, detail) from None
            if message["type"] == "http.disconnect":
                raise ClientGoneError(task_id)
            body: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            for start in range(0, len(body), _SLICE):
                piece = body[start : start + _SLICE]
                fingerprint.update(piece)
                yield piece
                await asyncio.sleep(0)


def media_type(request: Request) -> str:
    """Return the body's media type, without parameters.

    Raises:
        HTTPException: 415, it is text in another encoding than UTF-8, or it is compressed.
    """
    message = Message()
    message["Content-Type"] = request.headers.get("content-type", "application/octet-stream")
    try:
        charset = message.get_content_charset("utf-8")
    except (TypeError, ValueError):
        # The standard library stumbles over parameters in pieces (RFC 2231) that do not fit together.
        raise HTTPException(415, "the charset cannot be read: send the file as UTF-8, without charset") from None
    if charset != "utf-8":
        raise HTTPException(415, f"the charset is {charset!r:.40}: save the file as UTF-8, and send it as such")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "the body is compressed: send it without Content-Encoding")
    return message.get_content_type()
