"""Integer arithmetic."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.integers import add_up, multiply

integers = st.integers(min_value=-(10**400), max_value=10**400)


@given(integers, integers)
def test_product_is_repeated_addition(multiplicand: int, multiplier: int) -> None:
    assert multiply(multiplicand, multiplier) - multiply(multiplicand, multiplier - 1) == multiplicand
    assert multiply(multiplicand, multiplier) == multiply(multiplier, multiplicand)


@given(st.lists(integers), st.lists(integers))
def test_sum_of_the_whole_is_the_sum_of_its_parts(one: list[int], other: list[int]) -> None:
    assert add_up([*one, *other]) == add_up(one) + add_up(other)


def test_known_values() -> None:
    assert multiply(6, -7) == -42
    assert add_up([1, 2, 3]) == 6
    assert add_up([]) == 0


@pytest.mark.parametrize("wrong", [True, "7", 7.0, None, [7]])
def test_other_types_are_refused_by_name(wrong: Any) -> None:
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=f"multiplicand must be an integer, not {kind}"):
        multiply(wrong, 1)
    with pytest.raises(TypeError, match=f"multiplier must be an integer, not {kind}"):
        multiply(1, wrong)
    with pytest.raises(TypeError, match=rf"integers\[1\] must be an integer, not {kind}"):
        add_up([1, wrong])


@pytest.mark.parametrize("wrong", [6, "123", {1: 2}, None])
def test_sum_takes_a_list(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"integers must be a list of integers, not {type(wrong).__name__}"):
        add_up(wrong)
