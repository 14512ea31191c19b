"""The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): a POST that can be repeated safely.

How it works: the draft makes it a string of RFC 8941, `"8e03978e-40d5-43e8-bc93-6894a57f9324"`. What most clients
send, the same without quotes, is taken for the same key. It is optional. A key belongs to one request: its
method, its path (an `/async` twin's is its endpoint's) and its body.

What belongs here: reading the header, and taking a request's fingerprint. What is done about a key is in
`app/celery/submission.py` for what is sent, in `replays.py` for what is written to PostgreSQL.
"""

import re
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.api.replies import ASYNC_SUFFIX
from app.core.idempotency import BadIdempotencyKeyError, Fingerprint

# A string (RFC 8941 §3.3.3): printable ASCII, a backslash before a quote and before a backslash. Without quotes:
# visible ASCII but for what would begin a string, a parameter or a second key.
_STRING = r'"(?:[ !#-\[\]-~]|\\["\\]){1,255}"'
_BARE = r"[!#-+\--:<-\[\]-~]{1,255}"
_FIELD = re.compile(f"{_STRING}|{_BARE}")
_ESCAPE = re.compile(r"\\(.)")

IdempotencyKeyHeader = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^(?:{_FIELD.pattern})$",
            "examples": ['"8e03978e-40d5-43e8-bc93-6894a57f9324"'],
        }
    ),
]
"""What the header looks like. What is none is refused by `parse_key` (400), not by its type (422)."""


def parse_key(fields: Sequence[str]) -> str | None:
    """Read all `Idempotency-Key` headers of a request; there may be one.

    Raises:
        BadIdempotencyKeyError: there are several, or it is no key.
    """
    if not fields:
        return None
    if len(fields) > 1:
        raise BadIdempotencyKeyError("send one Idempotency-Key, not several")
    field = fields[0].strip(" \t")
    if not _FIELD.fullmatch(field):
        raise BadIdempotencyKeyError(
            "an Idempotency-Key has 1 to 255 printable ASCII characters, best a new UUID in double quotes: "
            'Idempotency-Key: "8e03978e-40d5-43e8-bc93-6894a57f9324"'
        )
    return _ESCAPE.sub(r"\1", field[1:-1]) if field.startswith('"') else field


async def get_key(
    request: Request,
    idempotency_key: Annotated[  # noqa: ARG001  # for OpenAPI; read below, where several are seen as several
        IdempotencyKeyHeader | None,
        Header(
            description="a key that you make for this request: repeated under it within 24 hours, the request is "
            "worked once, and each repeat gets the first one's answer"
        ),
    ] = None,
) -> str | None:
    """Return the request's Idempotency-Key; None without one."""
    return parse_key(request.headers.getlist("idempotency-key"))


IdempotencyKeyDep = Annotated[str | None, Depends(get_key)]


def begin_fingerprint(request: Request) -> Fingerprint:
    """Return the fingerprint of a request without its body."""
    path = request.url.path.removesuffix(ASYNC_SUFFIX)
    return Fingerprint(request.method, f"{path}?{request.url.query}")


async def take_fingerprint(request: Request) -> Fingerprint:
    """Return the fingerprint of a request with its body, which is kept for whoever reads it next."""
    fingerprint = begin_fingerprint(request)
    try:
        fingerprint.update(await request.body())
    except ClientDisconnect as error:
        raise HTTPException(400, "the body has not come in whole") from error
    return fingerprint
