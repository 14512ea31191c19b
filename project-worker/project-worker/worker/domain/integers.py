"""Arithmetic on integers of any size.

How it works: in a workflow a value may grow beyond what the API accepts from a client, so size is not checked
here. Types are: Python would multiply a string or add up booleans without a word.

What belongs here: pure functions on integers.
"""

from collections.abc import Sequence


def multiply(multiplicand: int, multiplier: int) -> int:
    """Return `multiplicand` × `multiplier`.

    Raises:
        TypeError: an argument is not an integer (a boolean is none).
    """
    _require_integer("multiplicand", multiplicand)
    _require_integer("multiplier", multiplier)
    return multiplicand * multiplier


def add_up(integers: Sequence[int]) -> int:
    """Return the sum of `integers`.

    Raises:
        TypeError: `integers` is not a list or tuple, or an item is not an integer.
    """
    if not isinstance(integers, list | tuple):
        raise TypeError(f"integers must be a list of integers, not {type(integers).__name__}")
    for position, value in enumerate(integers):
        _require_integer(f"integers[{position}]", value)
    return sum(integers)


def _require_integer(name: str, value: object) -> None:
    if type(value) is not int:  # bool is a subclass of int
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
