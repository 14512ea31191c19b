"""Writing and reading JSON: as kombu does, to the letter.

What belongs here: comparisons with kombu's own functions.
"""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from async_celery.json_text import json_decoder, json_encoder

ENCODE, DECODE = json_encoder(), json_decoder(marks=True)

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def ended(act: Callable[[], Any]) -> Any:
    """What comes of a call: its value, or its error's class."""
    try:
        return act()
    except Exception as error:
        return type(error)


@given(VALUES)
def test_what_is_written_and_read_is_kombus(value: Any) -> None:
    text = kombu_json.dumps(value)
    assert ENCODE(value) == text
    assert DECODE(text) == kombu_json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        " [1, 2] ",
        "\n{}\n",
        "1 2",
        "[1] x",
        "",
        " ",
        "[1,",
        "nul",
        "\ufeff[1]",
        "NaN",
        "[Infinity]",
        '{"__type__": "nothing", "__value__": 1}',
        '{"__type__": "uuid", "__value__": {"hex": "12345678123456781234567812345678", "version": 4}}',
        '{"\\u005f_type__": "uuid", "__value__": {"hex": "12345678123456781234567812345678", "version": 4}}',
        "[" * 100_000,
    ],
)
def test_what_is_unusual_is_read_as_kombu_reads_it(text: str) -> None:
    found, expected = ended(lambda: DECODE(text)), ended(lambda: kombu_json.loads(text))
    assert repr(found) == repr(expected)


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), [Decimal(1), UUID(int=1), date.min, time.min, datetime.now(UTC)]]
)
def test_what_is_no_json_is_written_or_refused_as_kombu_does(value: Any) -> None:
    found, expected = ended(lambda: ENCODE(value)), ended(lambda: kombu_json.dumps(value))
    assert found == expected


def test_what_is_not_json_is_written_only_where_it_is_allowed() -> None:
    assert ENCODE([float("nan"), float("-inf")]) == json.dumps([float("nan"), float("-inf")])
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            json_encoder(allow_nan=False)([number])


def test_what_contains_itself_is_refused_and_the_next_value_is_written() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        ENCODE(endless)
    assert ENCODE([1]) == "[1]"
