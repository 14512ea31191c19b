"""Settings of the worker: typed, each overridden by the environment variable of its name.

How it works: at start, pydantic-settings reads environment variables, then `<repository>/.stack/env` (found
by walking up from the working folder, or from this file), then the defaults below. Hosts default to
127.0.0.1, so that a bare `celery -A tasks:app worker` reaches the services that run on your machine.

What belongs here: name, version, description, hosts, users, passwords, broker, result backend, database, limits
with their unit in the name. No secret has a default: a missing one stops the start with a message that names it.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator
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


class SettingsError(SystemExit):
    """The settings are incomplete or wrong.

    It is a `SystemExit`, so that the celery command prints its message and ends with code 1; any other
    exception would be shown as a traceback under "Unable to load celery application"."""


class Settings(Connections, DatabaseConnection, SigningKeys, BaseSettings):
    """Everything about the worker that differs between machines."""

    model_config = SettingsConfigDict(env_file_encoding="utf-8", extra="ignore", frozen=True)

    worker_name: str = "project-worker"
    worker_version: str = "0.1.0"
    worker_description: str = "Works the tasks of the queue project-worker."
    log_level: LogLevel = "INFO"
    log_format: LogFormat | None = Field(
        default=None, description="json or console; unless set, json in production, console in development"
    )
    task_events: bool | None = Field(
        default=None,
        description="tell monitors (Flower, `celery events`) about each task; on in development unless set",
    )

    worker_metrics_port: int = Field(
        default=0, ge=0, le=65535, description="where the worker serves its metrics; 0: nowhere"
    )
    pickle_worker_metrics_port: int = Field(
        default=0, ge=0, le=65535, description="the same of the worker of signed pickle"
    )
    worker_metrics_host: str = Field(
        default="127.0.0.1", description="0.0.0.0 in a container: Prometheus is in another one"
    )
    worker_metrics_directory: Path | None = Field(
        default=None, description="its processes' files are in a folder here; in shared memory unless set"
    )

    task_time_limit_seconds: float = Field(
        default=300,
        gt=0,
        lt=1800,
        description="the task's child is killed then; below RabbitMQ's consumer_timeout of 30 min",
    )
    task_soft_time_limit_seconds: float = Field(
        default=270,
        gt=0,
        description="SoftTimeLimitExceeded is raised in the task then: its time to clean up",
    )
    result_expires_seconds: int = Field(default=86400, gt=0, description="how long a result can be read")
    task_max_retries: int = Field(default=4, ge=0, description="runs after the first one: at most 5 in total")
    retry_backoff_seconds: int = Field(
        default=1, ge=1, description="longest wait before the first retry, then doubled"
    )
    retry_backoff_max_seconds: int = Field(default=30, ge=1, description="longest wait before any retry")
    redis_socket_timeout_seconds: float = Field(default=5, gt=0, description="one answer of the result backend")
    redis_connect_timeout_seconds: float = Field(default=2, gt=0, description="a new connection to it")
    postgres_connect_timeout_seconds: float = Field(
        default=5, gt=0, description="a new connection to the database"
    )
    postgres_pool_size: int = Field(default=2, ge=1, description="most connections of each child")
    postgres_pool_timeout_seconds: float = Field(
        default=5, gt=0, description="a task's transaction waits so long for one of them"
    )
    postgres_lock_timeout_seconds: float = Field(
        default=30,
        gt=0,
        description="a statement waits so long for a lock: another import of the same rows is waited for",
    )
    postgres_statement_timeout_seconds: float = Field(
        default=60, gt=0, description="one statement; the upsert of an import's part takes seconds"
    )
    soft_shutdown_timeout_seconds: float = Field(
        default=8, ge=0, description="a second signal waits for tasks so long"
    )
    worker_heartbeat_file: Path | None = Field(
        default=None,
        description="touched by a worker every 5 s while it takes tasks, by a reaper every second: for a "
        "container's health check; each process needs its own",
    )
    worker_max_tasks_per_child: int = Field(default=10_000, ge=1, description="a child is replaced after so many")
    worker_max_memory_per_child_kib: int = Field(
        default=600 * 1024,
        ge=1,
        description="replaces a child whose peak is higher, after its task; world-statistics peaks at 250 MiB",
    )

    @model_validator(mode="after")
    def _soft_limit_comes_first(self) -> Self:
        if self.task_soft_time_limit_seconds >= self.task_time_limit_seconds:
            raise ValueError(
                f"TASK_SOFT_TIME_LIMIT_SECONDS={self.task_soft_time_limit_seconds:g} must be less than "
                f"TASK_TIME_LIMIT_SECONDS={self.task_time_limit_seconds:g}: between them a task cleans up"
            )
        return self

    @property
    def sends_events(self) -> bool:
        """Whether monitors are told about each task: it costs half of a no-op task's rate."""
        return self.environment == "development" if self.task_events is None else self.task_events


def load_settings() -> Settings:
    """Read the settings from the environment and from `.stack/env`.

    Raises:
        SettingsError: something is missing, wrong or unreadable; the message names it and never shows its
        value.
    """
    try:
        env_file = find_env_file(Path.cwd()) or find_env_file(Path(__file__).resolve().parent)
        return Settings(_env_file=env_file)
    except ValidationError as error:
        raise SettingsError(explain_settings_error("project-worker", error)) from None
    except PermissionError as error:
        raise SettingsError(explain_unreadable_env("project-worker", error)) from None
