"""Secrets among the settings: from a file where one is named, and never those of development in production.

How it works: every model of settings that holds a secret (`SecretStr`) inherits `Secrets`. Its validators see all
fields, those of the classes that inherit it too. `REDIS_PASSWORD_FILE=/run/secrets/redis` gives the setting
`REDIS_PASSWORD` the content of that file, as the official images of the servers have it; so for each secret.
With `ENVIRONMENT=production`, a secret that is short, or that this repository shows, stops the start: the logins
of the committed `.env` (guest, postgres, admin, …) are all shorter than a secret should be, and its keys begin
with words that say what they are.

What belongs here: what holds for each secret. Which ones there are, and that none is missing, is where they are
declared. No message shows a value, nor the name of a file: who mixes both up would see a secret there.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from project_contracts.logs import Environment

SHORTEST_SECRET = 16  # characters
DEVELOPMENT_ONLY = "development-only-"
"""How the keys in the committed `.env` begin."""


@dataclass(frozen=True, kw_only=True)
class Holds:
    """Says of a secret setting, in its `Annotated`, that it is more than one plain secret.

    Attributes:
        secrets: from the setting's text to the secrets in it.
    """

    secrets: Callable[[str], Sequence[str]]


def passwords_of_urls(text: str) -> list[str]:
    """Return the password of each URL, "" where one has none; they are separated by `;`, as Celery has it."""
    try:
        return [unquote(urlsplit(url).password or "") for url in text.split(";")]
    except ValueError:  # no URL; what the error says might show it
        return [""]


class Secrets(BaseModel):
    """The part of all settings that keeps their secrets."""

    environment: Environment = "development"

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, given: Any) -> Any:
        return {**given, **{name: text for name in _secret_fields(cls) if (text := _from_file(name)) is not None}}

    @field_validator("*")
    @classmethod
    def _is_fit_for_production(cls, value: Any, info: ValidationInfo) -> Any:
        # `environment` is the first field, so it is known here unless it is wrong itself.
        if info.data.get("environment") != "production" or not isinstance(value, SecretStr):
            return value
        text = value.get_secret_value()
        holds = _holds(cls.model_fields[info.field_name or ""])
        # An empty one is no secret: it was not given, and is refused elsewhere if it is needed.
        if text and any(_is_weak(secret) for secret in holds.secrets(text)):
            raise PydanticCustomError(
                "weak_secret",
                "production takes no login of development, and none shorter than {shortest} characters: "
                "`openssl rand -hex 32` makes one",
                {"shortest": SHORTEST_SECRET},
            )
        return value


def _is_weak(secret: str) -> bool:
    return len(secret) < SHORTEST_SECRET or secret.startswith(DEVELOPMENT_ONLY)


def _secret_fields(model: type[BaseModel]) -> list[str]:
    return [
        name
        for name, field in model.model_fields.items()
        if SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ()))
    ]


def _holds(field: FieldInfo) -> Holds:
    return next((said for said in field.metadata if isinstance(said, Holds)), Holds(secrets=lambda text: [text]))


def _from_file(field: str) -> str | None:
    """Return what the file named by the setting's `…_FILE` holds, without the end of its last line."""
    variable = f"{field.upper()}_FILE"
    if not (path := os.environ.get(variable)):
        return None
    told = {"variable": variable, "setting": field.upper()}
    if os.environ.get(field.upper()):
        raise PydanticCustomError("two_secrets", "{setting} and {variable} are both set: drop one", told)
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 (a name that is no path is an OSError as well)
            return file.read().rstrip("\r\n")
    except (OSError, ValueError) as exc:
        told["reason"] = str(exc.strerror) if isinstance(exc, OSError) else "it is not UTF-8"
        raise PydanticCustomError(
            "unreadable_secret",
            "{variable} names no file that can be read: {reason}",
            told,
        ) from None
