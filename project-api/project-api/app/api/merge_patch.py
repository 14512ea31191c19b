"""JSON Merge Patch (RFC 7396): a PATCH names the fields that change, and null clears one.

How it works: our documents are flat, so what is named is set, what is null goes back to what it is when it is not
given, and the rest stays. A list is replaced as a whole. A field that is required cannot be cleared: the patch's
model does not take null for it. `{}` changes nothing.

What belongs here: what is the same for every PATCH.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/merge-patch+json"


def changes(patch: Mapping[str, Any], whole: type[BaseModel]) -> dict[str, Any]:
    """Return the values that a patch sets.

    Args:
        patch: what the client sent, validated.
        whole: the model of the whole document, which knows what a cleared field is.
    """
    fields = whole.model_fields
    return {
        name: fields[name].get_default(call_default_factory=True) if value is None else value
        for name, value in patch.items()
    }


async def require_merge_patch(request: Request) -> None:
    """Refuse a body that is not declared as a merge patch, or at least as JSON (415)."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in {MEDIA_TYPE, "application/json"}:
        raise HTTPException(415, f"send a JSON object of what changes, with Content-Type: {MEDIA_TYPE}")
