"""Settings: typed, overridable, and a clear end when one is missing or wrong."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.config import Settings, SettingsError, load_settings

IMPORT_ROOT = Path(__file__).resolve().parents[2] / "project-worker"
SECRET = "a-very-secret-value"
REQUIRED = {
    "RABBITMQ_PASSWORD": SECRET,
    "REDIS_PASSWORD": SECRET,
    "POSTGRES_PASSWORD": SECRET,
    "SIGNED_PICKLE_KEY": SECRET,
}


@pytest.fixture(autouse=True)
def only_the_test_s_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the caller's environment nor a stack that is up beside the test plays a role."""
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    stack = tmp_path / ".stack"
    stack.mkdir()
    (stack / "env").write_text("")
    monkeypatch.chdir(tmp_path)


def use(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in {**REQUIRED, **variables}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = use(monkeypatch)
    assert (settings.task_time_limit_seconds, settings.task_soft_time_limit_seconds) == (300, 270)
    assert settings.result_expires_seconds == 86400
    assert (settings.worker_metrics_port, settings.pickle_worker_metrics_port) == (0, 0)
    assert settings.broker == f"amqp://project:{SECRET}@127.0.0.1:5672/project"
    assert settings.backend == f"redis://:{SECRET}@127.0.0.1:6379/0"
    assert settings.database == f"postgresql://project:{SECRET}@127.0.0.1:5432/project"


def test_env_file_above_the_working_folder_is_found_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".stack" / "env").write_text(
        "RABBITMQ_PASSWORD=from-file\nREDIS_PASSWORD=from-file\nPOSTGRES_PASSWORD=from-file\nREDIS_DB=7\nREDIS_PORT=1234\nAPI_PORT=5000\n"
        "SIGNED_PICKLE_KEY=a-long-one-from-file\n"
    )
    below = tmp_path / "project-worker" / "project-worker"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.setenv("REDIS_PORT", "4321")
    assert load_settings().backend == "redis://:from-file@127.0.0.1:4321/7"


def test_every_setting_is_overridden_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {
        name: str(number)
        for number, name in enumerate(
            (field.upper() for field, info in Settings.model_fields.items() if info.annotation in (int, float)),
            start=100,
        )
        if name not in ("TASK_TIME_LIMIT_SECONDS", "TASK_SOFT_TIME_LIMIT_SECONDS")
    }
    settings = use(monkeypatch, TASK_TIME_LIMIT_SECONDS="9", TASK_SOFT_TIME_LIMIT_SECONDS="8", **numbers)
    assert (settings.task_time_limit_seconds, settings.task_soft_time_limit_seconds) == (9, 8)
    assert {name: str(getattr(settings, name.lower()).__int__()) for name in numbers} == numbers


def test_events_are_on_in_development_and_off_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    assert use(monkeypatch).sends_events
    assert not use(monkeypatch, TASK_EVENTS="0").sends_events
    monkeypatch.delenv("TASK_EVENTS")
    assert not use(monkeypatch, ENVIRONMENT="production").sends_events


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RABBITMQ_PASSWORD": ""}, "RABBITMQ_PASSWORD: required"),
        ({"REDIS_PASSWORD": ""}, "REDIS_PASSWORD: required"),
        ({"SIGNED_PICKLE_KEY": ""}, "SIGNED_PICKLE_KEY: Value should have at least 16"),
        ({"SIGNED_PICKLE_KEY": SECRET[:15]}, "SIGNED_PICKLE_KEY: Value should have at least 16"),
        ({"SIGNED_PICKLE_ACCEPTED_KEYS": f"{SECRET},short"}, "SIGNED_PICKLE_ACCEPTED_KEYS: "),
        ({"RABBITMQ_PORT": SECRET}, "RABBITMQ_PORT: Input should be a valid integer"),
        ({"ENVIRONMENT": SECRET}, "ENVIRONMENT: Input should be 'development' or 'production'"),
        ({"TASK_TIME_LIMIT_SECONDS": "1800"}, "TASK_TIME_LIMIT_SECONDS: Input should be less than 1800"),
        ({"TASK_TIME_LIMIT_SECONDS": "270"}, "TASK_SOFT_TIME_LIMIT_SECONDS=270 must be less than"),
    ],
)
def test_what_is_missing_or_wrong_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        use(monkeypatch, **variables)
    assert named in str(raised.value)
    assert "./stack up" in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("name", REQUIRED)
def test_production_takes_no_login_of_development(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    login = "development-only-canary" if name.endswith("_KEY") else "guest"
    use(monkeypatch, **{name: login})
    with pytest.raises(SettingsError) as raised:
        use(monkeypatch, **{name: login, "ENVIRONMENT": "production"})
    assert f"{name}: production takes no login of development" in str(raised.value)
    assert login not in str(raised.value)


def test_a_secret_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "secret"))
    assert use(monkeypatch, REDIS_PASSWORD="").backend == "redis://:from-a-file@127.0.0.1:6379/0"


def test_unreadable_env_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".stack" / "env").chmod(0)
    user = os.geteuid()
    if user == 0:  # root reads every file
        os.seteuid(65534)  # nobody
    try:
        with pytest.raises(SettingsError, match=r"\.stack/env cannot be read"):
            use(monkeypatch)
    finally:
        os.seteuid(user)


def test_celery_command_ends_with_the_message_alone() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(IMPORT_ROOT),
        "RABBITMQ_PASSWORD": "",
        "REDIS_PASSWORD": SECRET,
        "POSTGRES_PASSWORD": SECRET,
        "SIGNED_PICKLE_KEY": SECRET,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks:app", "worker"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "project-worker cannot start, these settings are missing or wrong:",
        "  RABBITMQ_PASSWORD: required (or BROKER_URL, which replaces it)",
        "Set them as environment variables, or run ./stack up, which writes them to .stack/env.",
    ]


def test_log_levels_are_logging_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in ("DEBUG", "INFO", "WARNING", "ERROR"):
        assert use(monkeypatch, LOG_LEVEL=level).log_level in logging.getLevelNamesMapping()
