"""Rows as JSON, straight from the database.

How it works: a row that was read has its model's fields, in their order (`app.database.rows`), with values that
PostgreSQL has typed. What a model would write is what they are: it is documented (`response_model`), and not
asked, which would take longer than the query. The tests compare each answer with what its model writes.

What belongs here: answers to GET.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from app.api.etags import EntityTags, etag


def answer(document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Return 200 with a document of rows."""
    return Response(to_json(document), headers=headers, media_type="application/json")


def answer_row(row: Mapping[str, Any], known: EntityTags | None) -> Response:
    """Return 200 with a row, or 304 if the client knows it already."""
    tag = etag(row["version"], row["created_at"])
    if known is not None and known.has_weakly(tag):
        return Response(status_code=304, headers={"ETag": tag})
    return answer(row, {"ETag": tag})
