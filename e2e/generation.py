"""What schemathesis must not send: rules of the API that JSON Schema cannot state, and what takes too long.

How it works: schemathesis loads this file as its hooks (`SCHEMATHESIS_HOOKS`) and drops the cases that the filter
refuses.

What belongs here: filters, each with its reason.
"""

import math
import os
from typing import Any

import schemathesis


@schemathesis.hook
def filter_case(context: Any, case: "schemathesis.Case[Any]") -> bool:
    """Keep a case unless the API is right to refuse it although its schema allows it."""
    body = case.body
    return not (_has_integral_float(body) or _has_too_many_digits(body) or _takes_too_long(body))


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
