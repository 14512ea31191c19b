"""The `argsrepr` and `kwargsrepr` of a message: what workers log and Flower shows of a task's arguments.

How it works: Celery's `saferepr` cuts what is long or deep, and takes up to a third of all the time that a
message takes. What is plain, short and shallow, as arguments mostly are, is written here ten times as fast;
anything else is left to Celery.

What belongs here: text that is Celery's, character by character.
"""

from typing import Any

from celery.utils.saferepr import saferepr


class _NotPlain(Exception):  # noqa: N818 (no error: it sends a value the long way)
    """A value whose `repr` Celery writes, or cuts, in a way of its own."""


def celery_repr(value: Any, limit: int, levels: int | None) -> str:
    """Return Celery's `saferepr` of a value.

    Args:
        value: arguments of a task.
        limit: `argsrepr_maxsize` or `kwargsrepr_maxsize` of the app's `amqp`, in characters.
        levels: the setting `task_repr_maxlevels`.
    """
    text = None
    if levels and type(value) is tuple and len(value) < _FEW and _are_numbers(value):
        text = repr(value)
    elif levels:
        try:  # noqa: SIM105 (faster than `suppress`, once per message)
            text = _plain_repr(value, limit, levels)
        except _NotPlain:
            pass
    if text is None or len(text) >= limit:
        text = saferepr(value, limit, levels)  # type: ignore[arg-type]  # None is what the setting may be
    return text


_NUMBERS = {int, bool, float, type(None)}
_FEW = 32


def _are_numbers(values: tuple[Any, ...]) -> bool:
    for value in values:  # noqa: SIM110 (once per message: `all` takes twice as long)
        if type(value) not in _NUMBERS:
            return False
    return True


def _plain_repr(value: Any, room: int, levels: int) -> str:
    """Return the `repr` of what JSON knows; give up as soon as it has more than `room` characters or levels."""
    kind = type(value)
    if kind is str:
        if len(value) > room:
            raise _NotPlain
        return "'" + str(value).replace("'", "\\'") + "'"
    if kind is int or kind is bool or kind is float or value is None:
        return str(value)
    if not levels or kind not in (dict, list, tuple):
        raise _NotPlain
    parts: list[str] = []
    for item in value:
        part = _plain_repr(item, room, levels - 1)
        if kind is dict:
            if type(item) is not str:
                raise _NotPlain
            part = f"{part}: {_plain_repr(value[item], room, levels - 1)}"
        room -= len(part) + 2
        if room < 0:
            raise _NotPlain
        parts.append(part)
    inner = ", ".join(parts)
    if kind is dict:
        return "{" + inner + "}"
    if kind is list:
        return "[" + inner + "]"
    return f"({inner},)" if len(parts) == 1 else f"({inner})"
