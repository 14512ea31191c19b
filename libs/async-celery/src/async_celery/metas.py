"""What stands in the result backend: Celery's JSON of a result, read and written.

How it works: a stored result is JSON, whatever it says it is. It is never unpickled, and an exception in it stays
a name and a text. What cannot be read, or is too large to be read on the loop, becomes the failure that it is for
whoever waits: a `Meta` with status FAILURE, like any other.

Celery's JSON is Python's and kombu's: NaN is a number, and what kombu has marked as a date, a decimal, a UUID or
bytes is one again. Compressed results (`result_compression`) are read too.

What belongs here: the stored form. What a state means is `status.py`'s.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any

from celery.backends import base

from async_celery.json_text import json_decoder
from async_celery.types import Meta, TaskState

# Celery's type stubs are older than it is.
_decompress: Callable[[bytes], bytes] = base.decompress_payload  # type: ignore[attr-defined]
# What `kombu.utils.json.loads` does.
_decode_json = json_decoder(marks=True)
# Some errors quote what they could not read.
_MOST_OF_A_REASON = 200  # characters

_FINAL = frozenset({TaskState.SUCCESS, TaskState.FAILURE, TaskState.REVOKED, "REJECTED", "IGNORED"})
"""As Celery spells them; the last two are endings without a result."""

DECODED_AT_ONCE = 128 * 1024
"""How many bytes may be decoded before the loop has its turn: some 5 ms of many small objects."""


def decode(task_id: str, payload: bytes, *, max_bytes: int) -> Meta:
    """Return a stored result; a FAILURE that says why when it cannot be read.

    Args:
        task_id: whose it is.
        payload: as it was stored.
        max_bytes: the most that is read.
    """
    if len(payload) > max_bytes:
        return too_large(task_id, len(payload), max_bytes=max_bytes)
    try:
        text: bytes = _decompress(payload)
        if len(text) > max_bytes:
            return too_large(task_id, len(text), max_bytes=max_bytes)
        meta: Any = _decode_json(text.decode())
    except Exception as exc:
        # Whatever is stored there: too deep, digits too many, no codec for it, a date that is none, …
        return _unreadable(task_id, str(exc)[:_MOST_OF_A_REASON])
    if not (isinstance(meta, dict) and isinstance(meta.get("status"), str)):
        return _unreadable(task_id, "it has no status")
    return meta


def is_final(meta: Meta) -> bool:
    """Return whether a task with this result has ended."""
    return meta["status"] in _FINAL


async def ending_of(batches: AsyncGenerator[list[tuple[str, Meta]]], within: float | None) -> Meta | None:
    """Return the first final result that a backend's `follow` yields within so many s, and end it; else None."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within), contextlib.aclosing(batches):
            async for batch in batches:
                for _, meta in batch:
                    if is_final(meta):
                        return meta
    return None


def too_large(task_id: str, size: int, *, max_bytes: int) -> Meta:
    """Return what takes the place of a result of `size` bytes."""
    return _failure(
        task_id,
        "ResultTooLarge",
        f"the stored result has {size} bytes, and no more than {max_bytes} are read: let the task store it "
        "elsewhere and return where, or raise max_result_bytes",
    )


def _unreadable(task_id: str, reason: str) -> Meta:
    message = f'not readable as JSON ({reason}): set result_serializer="json" on the worker'
    return _failure(task_id, "UnreadableResult", message)


def _failure(task_id: str, type_: str, message: str) -> Meta:
    return {"status": "FAILURE", "task_id": task_id, "result": {"exc_type": type_, "exc_message": [message]}}


def revoked(task_id: str) -> str:
    """Return a result as Celery stores it for a revoked task."""
    return json.dumps(
        {
            "status": "REVOKED",
            "result": {
                "exc_type": "TaskRevokedError",
                "exc_message": ["revoked"],
                "exc_module": "celery.exceptions",
            },
            "traceback": None,
            "children": [],
            "date_done": datetime.now(UTC).isoformat(),
            "task_id": task_id,
        }
    )
