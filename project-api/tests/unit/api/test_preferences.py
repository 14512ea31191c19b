"""RFC 7240: what is understood, and that nothing a client sends is an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.preferences import Preference, parse_prefer


@pytest.mark.parametrize(
    ("headers", "respond_async", "wait"),
    [
        ([], False, None),
        (["respond-async"], True, None),
        (["Respond-Async"], True, None),
        (["wait=5"], False, 5),
        (['wait="5"'], False, 5),
        (["respond-async, wait=5"], True, 5),
        (["wait=5", "respond-async"], True, 5),
        (["wait=5;foo=bar, respond-async;x"], True, 5),
        (["wait=5, wait=9"], False, 5),
        (["wait = 5"], False, 5),
        (["return=minimal, wait=3"], False, 3),
        (["wait=0"], False, None),
        (["respond-async, wait=0"], True, 0),
        (["wait=-1"], False, None),
        (["wait=1.5"], False, None),
        (["wait=abc"], False, None),
        (["wait=٣"], False, None),
        (["wait=" + "9" * 5000], False, None),
        (["respond-async=no"], False, None),
        ([",,;=,"], False, None),
    ],
)
def test_prefer(headers: list[str], respond_async: bool, wait: int | None) -> None:
    assert parse_prefer(headers) == Preference(respond_async=respond_async, wait=wait)


@pytest.mark.parametrize(
    ("header", "cancels"),
    [
        ("cancel-on-disconnect", True),
        ("wait=5, Cancel-On-Disconnect;x", True),
        ('cancel-on-disconnect=""', True),
        ("cancel-on-disconnect=no", False),
        ("cancel", False),
        ("", False),
    ],
)
def test_cancelling_on_disconnect_is_asked_for(header: str, cancels: bool) -> None:
    assert parse_prefer([header]).cancel_on_disconnect is cancels


@given(st.lists(st.text(max_size=200), max_size=5))
def test_any_header_can_be_read(headers: list[str]) -> None:
    preference = parse_prefer(headers)
    assert preference.wait is None or 0 <= preference.wait < 10**9
