"""Settings of the API: typed, each overridden by the environment variable of its name.

How it works: at start, pydantic-settings reads environment variables, then `<repository>/.stack/env` (found by
walking up from the working folder, or from this file), then the defaults below. Hosts default to 127.0.0.1, so
that a bare `uvicorn api:app` reaches the services that run on your machine.

What belongs here: name, version, description, hosts, users, passwords, broker, result backend, time-outs with
their unit in the name. No secret has a default: a missing one stops the start with a message that names it.
"""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from project_contracts.connections import (
    Connections,
    DatabaseConnection,
    explain_settings_error,
    explain_unreadable_env,
    find_env_file,
)
from project_contracts.logs import LogFormat, LogLevel
from project_contracts.signing import SigningKeys


class Settings(Connections, DatabaseConnection, SigningKeys, BaseSettings):
    """Everything about the API that differs between machines."""

    model_config = SettingsConfigDict(env_file_encoding="utf-8", extra="ignore", frozen=True)

    api_name: str = "full-stack-fastapi-celery"
    api_version: str = "0.1.0"
    api_revision: str = Field(default="unknown", description="the commit that runs, for app_build_info")
    api_description: str = "Sends tasks by name to Celery workers and tells the truth about them."
    log_level: LogLevel = "INFO"
    log_format: LogFormat | None = Field(
        default=None, description="json or console; unless set, json in production, console in development"
    )

    task_id_key: SecretStr = Field(min_length=16, description="MAC key of task ids; the same in every replica")

    publish_timeout_seconds: float = Field(default=1.5, gt=0, description="until the broker's confirm")
    backend_timeout_seconds: float = Field(default=1.5, gt=0, description="one look into the result backend")
    database_timeout_seconds: float = Field(default=1.5, gt=0, description="connect, and one readiness query")
    database_pool_size: int = Field(default=10, gt=0, description="the most connections of this process")
    database_pool_timeout_seconds: float = Field(default=1, gt=0, description="a request's wait for one of them")
    database_lock_timeout_seconds: float = Field(default=2, gt=0, description="a statement's wait for a lock")
    database_statement_timeout_seconds: float = Field(default=2.1, gt=0, description="one statement in all")
    result_wait_seconds: float = Field(default=10, gt=0, description="a POST's default wait for its result")
    result_wait_max_seconds: float = Field(default=60, gt=0, description="the longest wait a client may ask for")
    task_deadline_seconds: float = Field(default=3600, gt=0, description="a task not started by then expires")
    task_time_limit_seconds: float = Field(default=300, gt=0, description="the worker's hard limit of one run")
    task_max_retries: int = Field(default=4, ge=0, description="the worker's: runs after the first one")
    result_expires_seconds: int = Field(default=86400, gt=0, description="how long a result can be read")
    max_body_bytes: int = Field(default=256 * 1024, gt=0, description="largest request body")
    max_import_bytes: int = Field(default=200 * 1024 * 1024, gt=0, description="largest file to import")
    max_uploads: int = Field(default=2, gt=0, description="files taken at once; each holds a database connection")
    upload_idle_seconds: float = Field(default=30, gt=0, description="an upload silent for so long is given up")
    upload_seconds: float = Field(default=1800, gt=0, description="an upload that takes longer is given up")

    @model_validator(mode="after")
    def _results_outlive_their_tasks(self) -> Self:
        longest_life = self.task_deadline_seconds + self.task_time_limit_seconds
        if self.result_expires_seconds < longest_life:
            raise ValueError(
                f"RESULT_EXPIRES_SECONDS={self.result_expires_seconds} is shorter than a task's longest life "
                f"({longest_life:.0f} s = TASK_DEADLINE_SECONDS + TASK_TIME_LIMIT_SECONDS): raise it"
            )
        return self

    @model_validator(mode="after")
    def _waits_end_before_deadlines(self) -> Self:
        if not self.result_wait_seconds <= self.result_wait_max_seconds <= self.task_deadline_seconds:
            raise ValueError(
                f"RESULT_WAIT_SECONDS={self.result_wait_seconds:g} must not exceed RESULT_WAIT_MAX_SECONDS="
                f"{self.result_wait_max_seconds:g}, nor that TASK_DEADLINE_SECONDS={self.task_deadline_seconds:g}"
            )
        return self


@lru_cache
def get_settings() -> Settings:
    """Read the settings once per process; exit with a message that names what is missing or wrong."""
    try:
        env_file = find_env_file(Path.cwd()) or find_env_file(Path(__file__).resolve().parent)
        return Settings(_env_file=env_file)
    except ValidationError as error:
        sys.exit(explain_settings_error("project-api", error))
    except PermissionError as error:
        sys.exit(explain_unreadable_env("project-api", error))
