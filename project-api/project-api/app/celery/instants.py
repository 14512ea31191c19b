"""How times look in answers: RFC 3339, UTC, milliseconds.

What belongs here: the type of such a field.
"""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import PlainSerializer, WithJsonSchema


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    PlainSerializer(_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-05-04T13:07:09.123Z"]}),
]
"""A point in time, written as `2026-05-04T13:07:09.123Z`."""
