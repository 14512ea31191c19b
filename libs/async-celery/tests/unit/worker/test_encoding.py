"""Results and errors as JSON: what is refused, what is cut, what every reader finds."""

import json
import math
from typing import Any

import pytest
from celery.utils.serialization import get_pickleable_exception
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import EncodeError

from async_celery.worker.encoding import ResultTooLarge, encode, encode_result, error


class TwoArgumentsError(Exception):
    """Cannot be pickled: it has one argument left when it is made again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class CodedError(Exception):
    code = "no-stock"


class ChildError(CodedError):
    """Not pickleable, unlike its base class: Celery hands over that one instead."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class OddError(Exception):
    code = 7


class Mute:
    def __repr__(self) -> str:
        raise ValueError("no text")


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], {"a": -math.inf}, object(), {(1, 2): 3}, 10**5000, _circle(), _deep()],
    ids=["nan", "inf", "-inf", "object", "tuple as key", "too many digits", "circle", "deep"],
)
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(EncodeError, match="not JSON"):
        encode(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_what_is_json_comes_back(value: Any) -> None:
    text = encode(value)
    assert json.loads(text) == value
    assert text.isascii()


def test_size_is_that_of_the_json() -> None:
    assert encode_result("x" * 98, max_bytes=100) == '"' + "x" * 98 + '"'
    with pytest.raises(ResultTooLarge, match="101 bytes") as caught:
        encode_result("x" * 99, max_bytes=100)
    assert isinstance(caught.value, EncodeError)  # what Celery's tracer turns into a FAILURE
    with pytest.raises(ResultTooLarge):
        encode_result("é" * 20, max_bytes=100)


def test_an_error_keeps_class_module_arguments_and_code() -> None:
    assert error(ValueError("no", 1)) == {
        "exc_type": "ValueError",
        "exc_message": ["no", 1],
        "exc_module": "builtins",
        "code": None,
    }
    assert error(CodedError("out"))["code"] == "no-stock"
    assert error(OddError())["code"] is None


@pytest.mark.parametrize(("raised", "code"), [(TwoArgumentsError(1, 2), None), (ChildError(1, 2), "no-stock")])
def test_what_cannot_be_pickled_keeps_its_class(raised: Exception, code: str | None) -> None:
    try:
        raise raised
    except Exception as exc:
        handed_over = get_pickleable_exception(exc)
        assert type(handed_over) is not type(raised)
        stored = error(handed_over)
    assert (stored["exc_type"], stored["exc_message"]) == (type(raised).__qualname__, ["1 and 2"])
    assert stored["code"] == code


def test_another_error_that_is_being_handled_is_not_taken_for_it() -> None:
    try:
        raise ValueError("the cause")
    except ValueError:
        assert error(Exception("the effect"))["exc_type"] == "Exception"
        assert error(ValueError("another"))["exc_message"] == ["another"]


@pytest.mark.parametrize(
    "arguments",
    [("x" * 10**6,), (object(), "x"), (math.nan,), tuple(range(10**5)), (10**5000,), (b"\xff" * 10**5,)],
    ids=["long", "object", "nan", "many", "digits", "bytes"],
)
def test_an_errors_arguments_are_json_of_bounded_length(arguments: tuple[Any, ...]) -> None:
    assert len(json.dumps(error(Exception(*arguments)), allow_nan=False)) < 30_000
    assert error(Exception(*arguments))["exc_message"]


def test_texts_that_cannot_be_made_are_replaced() -> None:
    assert "Mute" in error(Exception(Mute()))["exc_message"][0]
