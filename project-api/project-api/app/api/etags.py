"""Which version of a row a client has: ETag, If-Match, If-None-Match (RFC 9110 §8.8.3, §13.1).

How it works: a row's entity tag is its version, with the instant of its creation: a row that was deleted and made
again begins at version 1 again, and is another one. The answer to whoever reads or writes a row carries its tag.
Sent back as If-Match, it makes a write depend on nobody else having written; as If-None-Match, it makes a read
answer 304 while nothing has changed.

What belongs here: these headers. The row that they are compared with is locked by the repository.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Protocol

from fastapi import Depends, Header
from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException

from app.database.errors import StaleVersion

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_DOCUMENTED = WithJsonSchema(
    {
        "type": "string",
        "pattern": r'^(?:\*|(?:W/)?"[!#-~]*"(?:, (?:W/)?"[!#-~]*")*)$',
        "examples": ['"1-62a5b9e1c3f40"'],
    }
)
"""What either header is told to look like: one field, in the usual spelling."""


class Versioned(Protocol):
    """A row whose changes are counted."""

    version: int
    created_at: datetime


def etag(version: int, created_at: datetime) -> str:
    """Return the entity tag of a row, a strong one."""
    created = (created_at - _EPOCH) // timedelta(microseconds=1)
    return f'"{version}-{created:x}"'


@dataclass(frozen=True, kw_only=True)
class EntityTags:
    """What one of the two headers names: some versions, or any."""

    named: frozenset[str] = frozenset()
    any: bool = False

    def has(self, tag: str) -> bool:
        """Compare strongly: a weak tag is never the same (RFC 9110 §8.8.3.2)."""
        return self.any or tag in self.named

    def has_weakly(self, tag: str) -> bool:
        """Compare weakly."""
        return self.has(tag) or f"W/{tag}" in self.named


def parse_entity_tags(name: str, values: Sequence[str] | None) -> EntityTags | None:
    """Read a header's values; None without the header.

    Raises:
        HTTPException: 400, they are no list of entity tags.
    """
    if values is None:
        return None
    text = ",".join(values)
    if text.strip(" \t") == "*":
        return EntityTags(any=True)
    if not _TAGS.fullmatch(text):
        raise HTTPException(400, f'{name}: send the ETag that you were given, with its quotes ("1-2f"), or *')
    return EntityTags(named=frozenset(re.findall(_TAG, text)))


def check_if_match(wanted: EntityTags | None, row: Versioned, entity: str, key: object) -> None:
    """Refuse a write whose client has seen another version.

    Args:
        wanted: what If-Match names.
        row: as it is now, locked.
        entity: what it is, as a client calls it.
        key: its key.

    Raises:
        StaleVersion: `row` is another one.
    """
    if wanted is not None and not wanted.has(etag(row.version, row.created_at)):
        raise StaleVersion(entity, key, version=row.version)


async def get_if_match(
    if_match: Annotated[
        list[str] | None,
        Header(description="write only if this is still the row's ETag; `*`: whatever it is"),
        _DOCUMENTED,
    ] = None,
) -> EntityTags | None:
    """Return the versions to which a write is confined."""
    return parse_entity_tags("If-Match", if_match)


def tagged(status: int, *names: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI text for an answer with an ETag, and with the headers `names`."""
    text = {"schema": {"type": "string"}}
    return {status: {"headers": dict.fromkeys(("ETag", *names), text)}}


NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "as the client has it (If-None-Match)"}}

IfMatchDep = Annotated[EntityTags | None, Depends(get_if_match)]
IfNoneMatch = Annotated[
    list[str] | None,
    Header(description="answer 304, without a body, if this is still the row's ETag"),
    _DOCUMENTED,
]
"""A header, and no dependency: FastAPI takes as long for one as PostgreSQL's driver does for the row."""
