"""Secrets: read from files, none of development in production, never shown."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from project_contracts.connections import Connections, DatabaseConnection, explain_settings_error
from project_contracts.secrets import Secrets
from project_contracts.signing import SigningKeys

STRONG = "a0123456789abcdef"
ENV = Path(__file__).resolve().parents[3] / ".env"


class Everything(Connections, DatabaseConnection, SigningKeys):
    """What a project has, and a secret of its own."""

    own_key: SecretStr = SecretStr("")


GIVEN = {
    "rabbitmq_password": STRONG,
    "redis_password": STRONG,
    "postgres_password": STRONG,
    "signed_pickle_key": STRONG,
    "own_key": STRONG,
}


def complaint(model: type[Secrets], given: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as raised:
        model.model_validate(given)
    return explain_settings_error("it", raised.value)


def test_strong_secrets_are_taken_in_production() -> None:
    settings = Everything.model_validate({**GIVEN, "environment": "production"})
    assert settings.rabbitmq_password.get_secret_value() == STRONG


@pytest.mark.parametrize("field", GIVEN)
@pytest.mark.parametrize("login", ["guest", "postgres", "admin", "changeme", "123456789abcdef"])
def test_logins_of_development_are_refused_in_production_alone(field: str, login: str) -> None:
    given = {**GIVEN, field: login}
    if field == "signed_pickle_key":  # never so short
        given[field] = "development-only-signed-pickle-key"
    Everything.model_validate(given)
    told = complaint(Everything, {**given, "environment": "production"})
    assert f"{field.upper()}: production takes no login of development" in told
    assert given[field] not in told
    assert len(told.splitlines()) == 3  # the others are well


@pytest.mark.parametrize(
    ("field", "refused", "taken"),
    [
        (
            "broker_url",
            "amqp://guest:guest@rabbitmq:5672/project",
            f"amqp://guest:{STRONG}@rabbitmq:5672/project",
        ),
        ("broker_url", "amqp://rabbitmq:5672/long-enough-to-be-taken", f"amqp://a:{STRONG}@b/v"),
        (
            "broker_url",
            f"amqp://a:{STRONG}@b/v;amqp://guest:guest@c/v",
            f"amqp://a:{STRONG}@b/v;amqp://a:{STRONG}@c/v",
        ),
        ("broker_url", "amqp://a:%61dmin%61dmin%61dmin@b/v", f"amqps://a:%40{STRONG}@b/v"),
        ("broker_url", f"amqp://a:{STRONG}@[b/v", f"amqp://a:{STRONG}@[::1]/v"),
        ("result_backend", "redis://:redis@redis:6379/0", f"rediss://:{STRONG}@redis:6379/0"),
        ("signed_pickle_accepted_keys", f"{STRONG},development-only-signed-pickle-key", f"{STRONG}, {STRONG}"),
    ],
)
def test_secrets_within_a_setting_are_found(field: str, refused: str, taken: str) -> None:
    in_production = {**GIVEN, "environment": "production"}
    Everything.model_validate({**in_production, field: taken})
    Everything.model_validate({**GIVEN, field: refused})
    told = complaint(Everything, {**in_production, field: refused})
    assert f"{field.upper()}: production takes" in told
    assert refused not in told


def test_passwords_that_a_url_replaces_may_be_missing_in_production() -> None:
    urls = {"broker_url": f"amqp://a:{STRONG}@b/v", "result_backend": f"redis://:{STRONG}@b"}
    assert Connections.model_validate({**urls, "environment": "production"}).broker == urls["broker_url"]


def test_each_secret_of_the_committed_env_is_refused_in_production() -> None:
    lines = [line for line in ENV.read_text().splitlines() if "=" in line and not line.startswith("#")]
    committed = {name.lower(): value for name, value in (line.split("=", 1) for line in lines)}
    ours = {"rabbitmq_password", "redis_password", "postgres_password", "signed_pickle_key"}
    told = complaint(
        Everything,
        {name: committed[name] for name in ours}
        | {"own_key": committed["task_id_key"], "environment": "production"},
    )
    assert {name.upper() for name in ours} | {"OWN_KEY"} == {
        line.split(":")[0].strip() for line in told.splitlines() if "production takes" in line
    }


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_gives_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str) -> None:
    (tmp_path / "secret").write_bytes(f" {STRONG}é".encode() + end.encode())
    monkeypatch.delenv("REDIS_PASSWORD", raising=False)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("BROKER_URL", "")  # as compose.yaml passes on what nobody has set
    monkeypatch.setenv("BROKER_URL_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("REDIS_HOST_FILE", str(tmp_path / "secret"))  # no secret
    settings = Connections.model_validate({"redis_password": "from .stack/env", "rabbitmq_password": "x"})
    assert settings.redis_password.get_secret_value() == f" {STRONG}é"
    assert settings.broker == f" {STRONG}é"
    assert settings.redis_host == "127.0.0.1"


def test_what_a_file_gives_is_judged_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("POSTGRES_PASSWORD", raising=False)
    monkeypatch.setenv("POSTGRES_PASSWORD_FILE", str(tmp_path / "secret"))
    (tmp_path / "secret").write_text("postgres\n")
    assert "POSTGRES_PASSWORD: production" in complaint(DatabaseConnection, {"environment": "production"})
    (tmp_path / "secret").write_text("\n")
    assert "POSTGRES_PASSWORD: required" in complaint(DatabaseConnection, {})


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file or directory"), (b"\xff" + STRONG.encode(), "it is not UTF-8")]
)
def test_a_file_that_cannot_be_read_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / STRONG).write_bytes(content)
    monkeypatch.delenv("REDIS_PASSWORD", raising=False)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / STRONG))
    told = complaint(Connections, {"rabbitmq_password": "x"})
    assert f"REDIS_PASSWORD_FILE names no file that can be read: {reason}" in told
    assert STRONG not in told  # nor the file's name, in which somebody may have put the secret itself


def test_a_secret_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(STRONG)
    monkeypatch.setenv("REDIS_PASSWORD", "canary")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "secret"))
    told = complaint(Connections, {"rabbitmq_password": "x", "redis_password": "canary"})
    assert "REDIS_PASSWORD and REDIS_PASSWORD_FILE are both set" in told
    assert "canary" not in told
