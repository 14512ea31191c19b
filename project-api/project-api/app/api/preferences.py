"""The `Prefer` header (RFC 7240): how long the client wants to wait, and whether it wants to.

What belongs here: reading the header. What is done about it is in `replies.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What the client asked for; the defaults are those of a request without the header."""

    respond_async: bool = False
    wait: int | None = None  # s
    cancel_on_disconnect: bool = False  # ours; RFC 7240 §2 lets anybody define preferences


def parse_prefer(headers: Iterable[str]) -> Preference:
    """Read all `Prefer` headers of a request.

    The first instance of a preference wins, and what cannot be read is ignored (RFC 7240 §2). `wait=0` without
    `respond-async` asks for a result without waiting for it and is ignored too.
    """
    found: dict[str, str] = {}
    for item in ",".join(headers).split(","):
        name, _, value = item.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    respond_async = found.get("respond-async") == ""
    text = found.get("wait", "")
    # Nine digits are 31 years; longer ones are nonsense that int() should not have to read.
    wait = int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None
    if wait == 0 and not respond_async:
        wait = None
    cancels = found.get("cancel-on-disconnect") == ""
    return Preference(respond_async=respond_async, wait=wait, cancel_on_disconnect=cancels)
