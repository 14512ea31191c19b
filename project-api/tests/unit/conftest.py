"""Settings for tests without sockets: every secret is throw-away."""

import pytest
from pydantic import SecretStr

from app.core.config import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings(
        _env_file=None,
        rabbitmq_password=SecretStr("rabbit-secret"),
        redis_password=SecretStr("redis-secret"),
        postgres_password=SecretStr("postgres-secret"),
        task_id_key=SecretStr("0123456789abcdef"),
        signed_pickle_key=SecretStr("0123456789abcdef"),
    )
