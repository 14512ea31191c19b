"""The keys of signed pickle: required, long, never shown."""

import pytest
from pydantic import ValidationError

from project_contracts.signing import SigningKeys

KEY, OTHER = "a-key-of-16-chars-or-more", "another-key-of-some-length"


def test_one_key_signs_and_more_are_accepted() -> None:
    keys = SigningKeys.model_validate(
        {"signed_pickle_key": KEY, "signed_pickle_accepted_keys": f" {OTHER} ,{KEY},"}
    )
    assert keys.signing_key == KEY.encode()
    assert keys.accepted_keys == (OTHER.encode(), KEY.encode())
    assert SigningKeys.model_validate({"signed_pickle_key": KEY}).accepted_keys == ()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "signed_pickle_key"),
        ({"signed_pickle_key": ""}, "signed_pickle_key"),
        ({"signed_pickle_key": "canary-15-chars"}, "signed_pickle_key"),
        (
            {"signed_pickle_key": KEY, "signed_pickle_accepted_keys": f"{OTHER},canary"},
            "signed_pickle_accepted_keys",
        ),
    ],
)
def test_a_missing_or_short_key_is_named_and_not_shown(settings: dict[str, str], named: str) -> None:
    with pytest.raises(ValidationError) as raised:
        SigningKeys.model_validate(settings)
    (error,) = raised.value.errors(include_input=False, include_url=False)
    assert error["loc"] == (named,)
    assert "canary" not in str(error)


def test_no_key_is_shown() -> None:
    keys = SigningKeys.model_validate({"signed_pickle_key": KEY, "signed_pickle_accepted_keys": OTHER})
    shown = repr(keys) + keys.model_dump_json()
    assert KEY not in shown
    assert OTHER not in shown
