"""Traces: whether they are wanted, and the span that this code runs in, for what is written about it.

How it works: `OTEL_EXPORTER_OTLP_ENDPOINT` switches traces on. Only then does a process import OpenTelemetry's
SDK (`otlp.py`), which tells this module how to look at the current span (`look_with`); until then there is
none. A span has an id, and shares its trace's with every other span of the request: log lines and exemplars
carry both. It travels in messages, as between any two services, as the header `traceparent` (W3C Trace
Context).

What belongs here: what must be known also where OpenTelemetry is not imported.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

TRACEPARENT = "traceparent"
"""The header that says of which trace a request or message is part, and which span has sent it."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
_NO_HEADERS: Mapping[str, str] = {}


class Trace(NamedTuple):
    """Where something happened: the ids of its trace and of its span, in hexadecimal digits."""

    trace_id: str
    span_id: str


def _look_nowhere() -> Mapping[str, str]:
    return _NO_HEADERS


_look: Callable[[], Mapping[str, str]] = _look_nowhere


def are_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment asks for traces, by the variables that OpenTelemetry has for it."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


def look_with(look: Callable[[], Mapping[str, str]]) -> None:
    """Have `headers` return what `look` does, from now on."""
    global _look
    _look = look


def headers() -> Mapping[str, str]:
    """Return what a message carries to be part of the current trace; nothing outside of a span."""
    return _look()


def current() -> Trace | None:
    """Return the span that this code runs in; None outside of one, and while traces are off."""
    return parse(_look().get(TRACEPARENT))


def parse(traceparent: object) -> Trace | None:
    """Return what a header says; None if it is none: whoever sends it can write anything into it."""
    match = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    return None if match is None else Trace(match[1], match[2])
