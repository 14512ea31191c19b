"""What may stand in a log: no secret, nothing without an end, nothing that JSON does not know.

How it works: secrets are found by the name that they stand under (`password`, `Authorization`, …), as a key of
logged data or in a text (`password=…`, `'password': '…'`), and in URLs (`amqp://user:…@host`). Where a text does
not say how far its secret goes, the rest of it is hidden, too. A text that is too long keeps its beginning and
its end, where an error's own words stand. Values become what JSON knows, whatever they are: an object that cannot
even say its `repr` is named by its type.

What belongs here: what a log must not show, and how long a text in it may be.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from itertools import islice
from math import isfinite
from pathlib import PurePath
from uuid import UUID

LONGEST = 8_192
"""Characters of one text."""

LONGEST_TRACE = 32_768
"""Characters of a traceback."""

_HIDDEN = "**"
_WORDS = (
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "credential",
    "api_key",
    "api-key",
    "apikey",
    "private_key",
    "pickle_key",
    "task_id_key",
)
"""A name with one of these in it, whatever its case, is a secret's."""

_MOST_ITEMS = 100
_DEEPEST = 6
_LONG = 1 << 63
"""Elasticsearch's `long` ends before it."""

_NAME = re.compile("|".join(_WORDS), re.IGNORECASE)
# JSON in a text, and JSON in JSON, has backslashes before its quotes: as many before both, more before those
# within. What has lost its end goes on to the text's.
_QUOTED = r"""(?<!\\)(?P<slashes>\\*+)(?P<quote>["']).*?(?:(?<!\\)(?P=slashes)(?P=quote)|\Z)"""
# Nothing here goes back over what it has read, or not far: whoever writes a text has no say in how long it takes.
_NAMED = re.compile(
    rf"""
    (?:(?P<header>authorization|cookie)|{_NAME.pattern})[\w-]{{0,64}}+
    \\*+["']?\s*+[=:]+>?\s*+(?:(?:bearer|basic)\s++)?
    (?P<value>
        [bruf]{{0,2}}{_QUOTED}
        |(?P<opened>(?(header)|[\w.]{{0,256}}+)[\[({{])  # `_closed` finds its end
        |(?(header)[^\r\n]+|[^\s"',;&)}}\]]+)  # a header has its whole line
    )
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_PARTS = re.compile(rf"{_QUOTED}|[\[\](){{}}]", re.DOTALL)

# A password in a URL should be quoted, and often is not: up to the last @ before a blank or a quote. Without one,
# the user may be a token.
_UP_TO_AT = re.compile(r"""(?<![^\s"'<>])[^\s"'<>]+@""")
_LOGIN = re.compile(r"(://[^/:@]{0,256}+:).*@|(://)[^/:@?#]{1,256}+@")

_SPEAKING = (date, Decimal, PurePath, UUID)
"""Types that `str` shows better than `repr`."""


def is_secret(name: str) -> bool:
    """Return whether what stands under this name is not to be shown."""
    return _NAME.search(name) is not None


def loggable(text: str, longest: int = LONGEST) -> str:
    """Return the text without its secrets, its middle where it is too long, and what is no Unicode."""
    text = _redacted(text)  # all of it: what is cut first may be half of a secret
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters left out … {text[-half:]}"


def loggable_value(value: object, name: str = "") -> object:
    """Return the value as JSON knows it, with each text in it `loggable`.

    Args:
        value: anything, of any size; it may contain itself.
        name: what it stands under.
    """
    return _value(value, name, 0)


def _redacted(text: str) -> str:
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()  # half of a pair of surrogates is no character
    if "://" in text and "@" in text:
        text = _UP_TO_AT.sub(_without_logins, text)
    lowered = text.lower()
    for word in _WORDS:  # several times as fast as the pattern, where there is none
        if word in lowered:
            return _without_named(text)
    return text


def _without_logins(found: re.Match[str]) -> str:
    return _LOGIN.sub(rf"\1\2{_HIDDEN}@", found[0])


def _without_named(text: str) -> str:
    shown: list[str] = []
    end = 0
    while (found := _NAMED.search(text, end)) is not None:
        shown += text[end : found.start("value")], _HIDDEN
        end = _closed(text, found.end()) if found["opened"] else found.end()
    return "".join((*shown, text[end:]))


def _closed(text: str, opened: int) -> int:
    """Return where the bracket's content ends that begins there, the bracket that closes it included."""
    depth = 1
    for part in _PARTS.finditer(text, opened):
        depth += 1 if part[0] in "[({" else -1 if part[0] in "])}" else 0
        if depth == 0:
            return part.end()
    return len(text)


def _value(value: object, name: str, depth: int) -> object:
    if is_secret(name):
        return _HIDDEN
    match value:
        case None | bool():
            return value
        case str():
            return loggable(value)
        case int():
            return int(value) if -_LONG <= value < _LONG else loggable(f"{value:#x}")  # decimal has a limit
        case float() if isfinite(value):
            return float(value)
        case Mapping() if depth < _DEEPEST:
            return {
                str(key): _value(each, str(key), depth + 1) for key, each in islice(value.items(), _MOST_ITEMS)
            }
        case list() | tuple() | set() | frozenset() if depth < _DEEPEST:
            items: Iterable[object] = islice(value, _MOST_ITEMS)
            return [_value(each, "", depth + 1) for each in items]
    return loggable(str(value) if isinstance(value, _SPEAKING) else _repr(value))


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
