"""Where broker, result backend and database are: the part of the settings that both projects share.

How it works: `Connections` and `DatabaseConnection` are plain models that each project's pydantic-settings class
inherits, so every field is typed and is overridden by the environment variable of its name (`RABBITMQ_HOST`,
`REDIS_PASSWORD`, …).
`find_env_file` finds `<repository>/.stack/env`, which `./stack up` writes, by walking up from a folder: that is
why a bare `uvicorn api:app` or `celery -A tasks:app worker` works in a plain shell beside a running stack.

What belongs here: addresses and credentials that both the API and the worker need. No default for a secret.
"""

import stat
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from project_contracts.secrets import Holds, Secrets, passwords_of_urls

ENV_FILE = Path(".stack") / "env"


def find_env_file(start: Path) -> Path | None:
    """Return the nearest `.stack/env` at or above `start`, or None.

    Raises:
        PermissionError: a folder on the way may not be looked into.
    """
    for folder in (start, *start.parents):
        file = folder / ENV_FILE
        # Not `is_file`: from Python 3.14 on it says no of what it may not look at.
        with suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISREG(file.stat().st_mode):
                return file
    return None


class Connections(Secrets):
    """Addresses and credentials of RabbitMQ (broker) and Redis (result backend)."""

    broker_url: Annotated[SecretStr | None, Holds(secrets=passwords_of_urls)] = Field(
        default=None, description="replaces the RABBITMQ_* parts when set"
    )
    rabbitmq_host: str = "127.0.0.1"
    rabbitmq_port: int = Field(default=5672, ge=1, le=65535)
    rabbitmq_user: str = "project"
    rabbitmq_password: SecretStr = Field(default=SecretStr(""), validate_default=True)
    rabbitmq_vhost: str = "project"

    result_backend: Annotated[SecretStr | None, Holds(secrets=passwords_of_urls)] = Field(
        default=None, description="replaces the REDIS_* parts when set"
    )
    redis_host: str = "127.0.0.1"
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_password: SecretStr = Field(default=SecretStr(""), validate_default=True)
    redis_db: int = Field(default=0, ge=0)

    @field_validator("rabbitmq_password", "redis_password")
    @classmethod
    def _password_is_given(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        url = "broker_url" if info.field_name == "rabbitmq_password" else "result_backend"
        if not password.get_secret_value() and info.data.get(url) is None:
            raise PydanticCustomError("missing", f"required (or {url.upper()}, which replaces it)")
        return password

    @property
    def broker(self) -> str:
        """The broker's URL, password included: never log it."""
        if self.broker_url is not None:
            return self.broker_url.get_secret_value()
        user = quote(self.rabbitmq_user, safe="")
        password = quote(self.rabbitmq_password.get_secret_value(), safe="")
        vhost = quote(self.rabbitmq_vhost, safe="")
        return f"amqp://{user}:{password}@{self.rabbitmq_host}:{self.rabbitmq_port}/{vhost}"

    @property
    def backend(self) -> str:
        """The result backend's URL, password included: never log it."""
        if self.result_backend is not None:
            return self.result_backend.get_secret_value()
        password = quote(self.redis_password.get_secret_value(), safe="")
        return f"redis://:{password}@{self.redis_host}:{self.redis_port}/{self.redis_db}"


class DatabaseConnection(Secrets):
    """Address and credentials of PostgreSQL."""

    postgres_host: str = "127.0.0.1"
    postgres_port: int = Field(default=5432, ge=1, le=65535)
    postgres_user: str = "project"
    postgres_password: SecretStr = Field(default=SecretStr(""), validate_default=True)
    postgres_db: str = "project"

    @field_validator("postgres_password")
    @classmethod
    def _password_for_postgres_is_given(cls, password: SecretStr) -> SecretStr:
        if not password.get_secret_value():
            raise PydanticCustomError("missing", "required")
        return password

    @property
    def database(self) -> str:
        """The database's URL without a driver (`postgresql://…`), password included: never log it."""
        user = quote(self.postgres_user, safe="")
        password = quote(self.postgres_password.get_secret_value(), safe="")
        name = quote(self.postgres_db, safe="")
        return f"postgresql://{user}:{password}@{self.postgres_host}:{self.postgres_port}/{name}"


def explain_settings_error(project: str, error: ValidationError) -> str:
    """Return the message with which a project that cannot start says why: names, never values."""
    problems = [
        f"  {'_'.join(str(part) for part in item['loc']).upper() or 'settings'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)
    ]
    return "\n".join(
        (
            f"{project} cannot start, these settings are missing or wrong:",
            *problems,
            "Set them as environment variables, or run ./stack up, which writes them to .stack/env.",
        )
    )


def explain_unreadable_env(project: str, error: PermissionError) -> str:
    """Return the message for a `.stack/env` that belongs to another user."""
    return (
        f"{project} cannot start: {error.filename} cannot be read: run as the user who ran ./stack up, "
        "or set the environment variables yourself."
    )
