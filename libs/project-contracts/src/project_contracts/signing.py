"""The keys of signed pickle: the part of the settings by which both projects know each other's messages.

How it works: `SigningKeys` is a plain model that each project's settings inherit, as they do `Connections`.
`SIGNED_PICKLE_KEY` signs what a process sends and is accepted by it; `SIGNED_PICKLE_ACCEPTED_KEYS` are accepted
only. To change the key of a running system: add the new key to the accepted ones of all processes, restart them;
then let the new key sign and the old one be accepted; drop the old one after the longest deadline of a task.

What belongs here: these two settings. What is done with the keys is in `async_celery.signed_pickle`.
"""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from project_contracts.secrets import SHORTEST_SECRET, Holds, Secrets


def _split(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


class SigningKeys(Secrets):
    """The secrets that make a pickle worth unpickling. No default: a missing one stops the start."""

    signed_pickle_key: SecretStr = Field(
        min_length=SHORTEST_SECRET, description="signs the arguments of some tasks; the same in API and worker"
    )
    signed_pickle_accepted_keys: Annotated[SecretStr, Holds(secrets=_split)] = Field(
        default=SecretStr(""), description="further keys that are accepted, separated by commas: to change keys"
    )

    @field_validator("signed_pickle_accepted_keys")
    @classmethod
    def _are_long(cls, keys: SecretStr) -> SecretStr:
        if any(len(key) < SHORTEST_SECRET for key in _split(keys.get_secret_value())):
            raise ValueError(f"each key should have at least {SHORTEST_SECRET} characters")
        return keys

    @property
    def signing_key(self) -> bytes:
        """The key that signs: never log it."""
        return self.signed_pickle_key.get_secret_value().encode()

    @property
    def accepted_keys(self) -> tuple[bytes, ...]:
        """The keys that are accepted beside it: never log them."""
        return tuple(key.encode() for key in _split(self.signed_pickle_accepted_keys.get_secret_value()))
