"""Settings: typed, overridable, no secret with a default, errors that name the variable and not its value."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from app.core.config import Settings

IMPORT_ROOT = Path(__file__).parents[3] / "project-api"

SECRETS = {
    "RABBITMQ_PASSWORD": "rabbit-secret",
    "REDIS_PASSWORD": "redis-secret",
    "POSTGRES_PASSWORD": "postgres-secret",
    "TASK_ID_KEY": "0123456789abcdef",
    "SIGNED_PICKLE_KEY": "fedcba9876543210",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def read() -> Settings:
    return Settings(_env_file=None)


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_has_a_default(environment: pytest.MonkeyPatch, secret: str) -> None:
    environment.delenv(secret)
    with pytest.raises(ValidationError) as error:
        read()
    assert [item["loc"] for item in error.value.errors()] == [(secret.lower(),)]


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("API_NAME", "mine", "api_name", "mine"),
        ("RABBITMQ_PORT", "5673", "rabbitmq_port", 5673),
        ("RESULT_WAIT_SECONDS", "2.5", "result_wait_seconds", 2.5),
        ("LOG_LEVEL", "DEBUG", "log_level", "DEBUG"),
        ("LOG_FORMAT", "json", "log_format", "json"),
    ],
)
def test_the_environment_overrides_each_field(
    environment: pytest.MonkeyPatch, variable: str, value: str, field: str, expected: object
) -> None:
    environment.setenv(variable, value)
    assert getattr(read(), field) == expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_PORT", "70000"),
        ("RESULT_WAIT_SECONDS", "0"),
        ("ENVIRONMENT", "staging"),
        ("LOG_FORMAT", "xml"),
        ("TASK_ID_KEY", "short"),
        ("SIGNED_PICKLE_KEY", "short"),
        ("SIGNED_PICKLE_ACCEPTED_KEYS", "short"),
    ],
)
def test_wrong_values_are_refused(environment: pytest.MonkeyPatch, variable: str, value: str) -> None:
    environment.setenv(variable, value)
    with pytest.raises(ValidationError):
        read()


def test_results_must_outlive_their_tasks(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RESULT_EXPIRES_SECONDS", "3000")
    with pytest.raises(ValidationError, match="RESULT_EXPIRES_SECONDS=3000 is shorter"):
        read()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("RESULT_WAIT_SECONDS", "61"), ("RESULT_WAIT_MAX_SECONDS", "5"), ("TASK_DEADLINE_SECONDS", "30")],
)
def test_waits_must_end_before_deadlines(environment: pytest.MonkeyPatch, variable: str, value: str) -> None:
    environment.setenv(variable, value)
    with pytest.raises(ValidationError, match=f"{variable}={value}"):
        read()


def test_hosts_default_to_this_machine(environment: pytest.MonkeyPatch) -> None:
    settings = read()
    assert {settings.rabbitmq_host, settings.redis_host, settings.postgres_host} == {"127.0.0.1"}


def test_urls_quote_what_a_password_may_hold(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RABBITMQ_PASSWORD", "a/b@c:d")
    environment.setenv("REDIS_PASSWORD", "a/b@c:d")
    environment.setenv("POSTGRES_PASSWORD", "a/b@c:d")
    settings = read()
    assert settings.database == "postgresql://project:a%2Fb%40c%3Ad@127.0.0.1:5432/project"
    assert settings.broker == "amqp://project:a%2Fb%40c%3Ad@127.0.0.1:5672/project"
    assert settings.backend == "redis://:a%2Fb%40c%3Ad@127.0.0.1:6379/0"


def test_whole_urls_replace_their_parts(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BROKER_URL", "amqp://elsewhere//")
    environment.setenv("RESULT_BACKEND", "redis://elsewhere/1")
    assert (read().broker, read().backend) == ("amqp://elsewhere//", "redis://elsewhere/1")


def test_no_secret_shows_in_the_settings_text(environment: pytest.MonkeyPatch) -> None:
    assert isinstance(read().redis_password, SecretStr)
    assert not [secret for secret in SECRETS.values() if secret in repr(read())]


def start_api(folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import api", str(IMPORT_ROOT)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_wrong_setting_stops_the_start_and_its_value_is_not_shown(tmp_path: Path) -> None:
    result = start_api(tmp_path, {**SECRETS, "TASK_ID_KEY": "tiny-canary", "REDIS_PORT": "none"})
    assert result.returncode != 0
    assert "TASK_ID_KEY" in result.stderr
    assert "REDIS_PORT" in result.stderr
    assert "./stack up" in result.stderr
    assert "tiny-canary" not in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_production_does_not_start_with_a_login_of_development(tmp_path: Path) -> None:
    strong = {name: value * 2 for name, value in SECRETS.items()}
    in_production = {**strong, "ENVIRONMENT": "production"}
    assert start_api(tmp_path, in_production).returncode == 0
    weak = {"RABBITMQ_PASSWORD": "guest", "TASK_ID_KEY": "development-only-canary"}
    result = start_api(tmp_path, {**in_production, **weak})
    assert result.returncode == 1
    assert [line.split(":")[0].strip() for line in result.stderr.splitlines()[1:-1]] == list(weak)
    assert not [value for value in weak.values() if value in result.stderr + result.stdout]


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("tiny-canary\n")
    given = {name: value for name, value in SECRETS.items() if name != "TASK_ID_KEY"}
    result = start_api(tmp_path, {**given, "TASK_ID_KEY_FILE": str(tmp_path / "key")})
    assert "TASK_ID_KEY: Value should have at least 16" in result.stderr
    assert "tiny-canary" not in result.stderr
    (tmp_path / "key").write_text("0123456789abcdef\n")
    assert start_api(tmp_path, {**given, "TASK_ID_KEY_FILE": str(tmp_path / "key")}).returncode == 0


def test_settings_are_found_in_stack_env_above_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / ".stack").mkdir()
    lines = {**SECRETS, "REDIS_PORT": "none"}
    (tmp_path / ".stack" / "env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    below = tmp_path / "project-api" / "project-api"
    below.mkdir(parents=True)
    result = start_api(below, {})
    # The file was read: the one wrong value in it is the only complaint.
    assert "REDIS_PORT" in result.stderr
    assert "PASSWORD" not in result.stderr
