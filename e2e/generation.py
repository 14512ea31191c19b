"""What schemathesis must not send: rules of the API that JSON Schema cannot state, and what takes too long.

How it works: schemathesis loads this file as its hooks (`SCHEMATHESIS_HOOKS`), drops the cases that the filter
refuses, and sends no key twice.

What belongs here: filters, each with its reason.
"""

import math
import os
import re
import uuid
import zoneinfo
from typing import Any
from unicodedata import category

import schemathesis

TIMEZONES = zoneinfo.available_timezones()
LETTERS_AND_DIGITS = {"Lu", "Ll", "Lt", "Lo", "Nd"}

_ETAGS = r'\*|(?:W/)?"[!#-~]*"(?:, (?:W/)?"[!#-~]*")*'
KEY = "idempotency-key"
HEADERS = {
    KEY: re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])+"|[!#-+\--:<-\[\]-~]+'),
    "if-match": re.compile(_ETAGS),
    "if-none-match": re.compile(_ETAGS),
}
"""What these look like when they are well formed."""


@schemathesis.hook
def filter_case(context: Any, case: "schemathesis.Case[Any]") -> bool:
    """Keep a case unless the API is right to refuse it although its schema allows it."""
    body, query = case.body, case.query or {}
    return not (
        _has_integral_float(body)
        or _has_integral_float({name: query[name] for name in query if name not in {"latitude", "longitude"}})
        or _has_integral_float(dict(case.path_parameters or {}))
        or _has_too_many_digits(body)
        or _takes_too_long(body)
        or _has_a_blank_name(body)
        or _names_no_timezone(body)
        or _names_no_timezone(query)
        or _searches_for_nothing(query)
        or _goes_on_nowhere(case)
        or _has_odd_headers(case.headers or {})
        # Of another method, it is about a city whose id is no number: 422, not 405.
        or (case.operation.path == "/v1/cities/nearest" and case.method.upper() != "GET")
    )


@schemathesis.hook
def before_call(context: Any, case: "schemathesis.Case[Any]", kwargs: Any) -> None:
    """Give each request with a key a key of its own: one that has been used belongs to another request."""
    for name in case.headers or {}:
        if name.lower() == KEY:
            case.headers[name] = f'"{uuid.uuid4()}"'


def _has_integral_float(value: Any) -> bool:
    # JSON Schema calls 1.0 an integer; the API is strict: an integer is written as one (bad-input table).
    if isinstance(value, dict):
        return any(map(_has_integral_float, value.values()))
    if isinstance(value, list):
        return any(map(_has_integral_float, value))
    return isinstance(value, float) and value.is_integer()


def _has_too_many_digits(body: Any) -> bool:
    # `integer ** n` is bounded by its digits, which depends on two fields.
    if not isinstance(body, dict) or not all(type(body.get(name)) is int for name in ("integer", "n")):
        return False
    return bool(body["n"] * math.log10(max(abs(body["integer"]), 1)) >= 4200)


def _takes_too_long(body: Any) -> bool:
    # A chain of 1000 tasks takes 20 s; workflows of that size have a test of their own (test_2_tasks.py).
    limit = 100 if float(os.environ.get("FAULT_SCALE", "0")) else 30
    return isinstance(body, dict) and type(body.get("n")) is int and limit < body["n"] <= 1000


def _has_a_blank_name(body: Any) -> bool:
    # Surrounding spaces are no part of a name, of whichever kind they are, and then nothing may be left.
    if not isinstance(body, dict):
        return False
    others = body.get("alternate_names")
    names = [body.get("name"), body.get("capital"), *(others if isinstance(others, list) else ())]
    return any(isinstance(name, str) and not name.strip() for name in names)


def _names_no_timezone(values: Any) -> bool:
    # Its name is one of 600: too many to list in the text.
    return (
        isinstance(values, dict)
        and isinstance(values.get("timezone"), str)
        and values["timezone"] not in TIMEZONES
    )


def _searches_for_nothing(query: Any) -> bool:
    # What is searched for has a letter or a digit, and only what is searched for has a relevance.
    if query.get("sort") == "relevance" and "q" not in query:
        return True
    searched = query.get("q")
    return isinstance(searched, str) and not any(category(one) in LETTERS_AND_DIGITS for one in searched)


def _goes_on_nowhere(case: "schemathesis.Case[Any]") -> bool:
    # A cursor is opaque, and of one list alone. That others are refused, the API's own tests see.
    return case.operation.path in {"/v1/cities", "/v1/countries"} and "cursor" in (case.query or {})


def _has_odd_headers(headers: Any) -> bool:
    # Null is no header: it is sent as text, and "null" is a good key. Malformed ones are the API's own tests'.
    return any(
        name.lower() in HEADERS and (value in (None, "null") or not HEADERS[name.lower()].fullmatch(str(value)))
        for name, value in headers.items()
    )
