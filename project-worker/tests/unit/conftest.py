"""Unit tests: no sockets, no servers.

What belongs here: the settings and the app that several tests build on; both are made without the environment.
"""

import pytest
from celery import Celery
from pydantic import SecretStr

from worker.config import Settings
from worker.main import create_app, create_pickle_app


@pytest.fixture
def settings() -> Settings:
    return Settings(
        rabbitmq_password=SecretStr("broker-secret-of-production"),
        redis_password=SecretStr("backend-secret-of-production"),
        postgres_password=SecretStr("database-secret-of-production"),
        signed_pickle_key=SecretStr("a-pickle-secret-of-its-own"),
        task_time_limit_seconds=30,
        task_soft_time_limit_seconds=20,
        task_max_retries=3,
        retry_backoff_seconds=2,
        retry_backoff_max_seconds=9,
        environment="production",
    )


@pytest.fixture
def app(settings: Settings) -> Celery:
    return create_app(settings)


@pytest.fixture
def pickle_app(settings: Settings) -> Celery:
    return create_pickle_app(settings)
