"""Results and errors as JSON that every reader takes: strict, and no longer than allowed.

How it works: JSON as kombu writes it (dates, decimals, UUIDs and bytes are marked as such), without the numbers
that are not JSON. An error is stored as Celery stores it, so that every Celery client reads it, with a `code`
beside it: its class's name and its arguments as far as they are JSON and short, their texts else. A traceback is
never stored: it stands in the worker's log.

What belongs here: from Python values to the stored form. Where it is stored is `backend.py`'s.
"""

import sys
from typing import Any

from celery.utils.serialization import UnpickleableExceptionWrapper
from kombu.exceptions import EncodeError
from kombu.utils.encoding import safe_repr

from async_celery.json_text import json_encoder

_encode = json_encoder(allow_nan=False)
_LONGEST_ERROR = 4096
"""How many characters of an error's arguments are stored."""


class ResultTooLarge(EncodeError):  # noqa: N818 (the name that clients read)
    """A task returned more than is stored."""


def encode(value: Any) -> str:
    """Return `value` as JSON, in ASCII.

    Raises:
        EncodeError: it is not JSON.
    """
    try:
        return _encode(value)
    except Exception as exc:
        # TypeError, ValueError, RecursionError, and whatever a `__json__` or `__str__` of the value's raises.
        raise EncodeError(
            f"the result is not JSON ({exc}): return what json.dumps(…, allow_nan=False) takes"
        ) from exc


def encode_result(value: Any, *, max_bytes: int) -> str:
    """Return what a task returned as JSON.

    Args:
        value: the result, or an error as `error` makes it.
        max_bytes: the most that is stored.

    Raises:
        EncodeError: it is not JSON.
        ResultTooLarge: it is longer.
    """
    text = encode(value)
    if len(text) > max_bytes:
        raise ResultTooLarge(
            f"the result has {len(text)} bytes of JSON, and no more than {max_bytes} are stored: store it "
            "elsewhere and return where, or raise max_result_bytes"
        )
    return text


def error(exc: BaseException) -> dict[str, Any]:
    """Return an exception as it is stored."""
    exc = _as_raised(exc)
    if isinstance(exc, UnpickleableExceptionWrapper):
        type_, module, arguments, code = exc.exc_cls_name, exc.exc_module, exc.exc_args, None
    else:
        type_, module, arguments = type(exc).__qualname__, type(exc).__module__, exc.args
        code = getattr(type(exc), "code", None)
    return {
        "exc_type": type_,
        "exc_message": _short(tuple(arguments or ())),
        "exc_module": module,
        "code": code if isinstance(code, str) else None,
    }


def _as_raised(exc: BaseException) -> BaseException:
    """Return the exception that `exc` stands for.

    Celery replaces one that cannot be pickled by the nearest base class of its that can, or by a wrapper, while
    it handles the one that was raised.
    """
    raised = sys.exc_info()[1]
    if raised is None:
        return exc
    if isinstance(exc, UnpickleableExceptionWrapper):
        return raised if type(raised).__name__ == exc.exc_cls_name else exc
    return raised if isinstance(raised, type(exc)) and raised.args == exc.args else exc


def _short(arguments: tuple[Any, ...]) -> list[Any]:
    """Return an exception's arguments so that they are JSON of a bounded length."""
    try:
        if len(_encode(arguments)) <= _LONGEST_ERROR:
            return list(arguments)
    except Exception:  # noqa: S110 (whatever they are, their texts are taken)
        pass
    share = _LONGEST_ERROR // max(len(arguments), 1)
    if share < len("one word"):
        return [safe_repr(arguments)[:_LONGEST_ERROR]]
    return [(argument if isinstance(argument, str) else safe_repr(argument))[:share] for argument in arguments]
