"""What may be a request's id: it stands in logs and messages."""

import pytest

from project_contracts.headers import is_request_id


@pytest.mark.parametrize("value", ["a", "request-1.x_Y", "x" * 128])
def test_ids(value: object) -> None:
    assert is_request_id(value)


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a\n", "é", '"', None, 5, b"a", ["a"]])
def test_others(value: object) -> None:
    assert not is_request_id(value)
