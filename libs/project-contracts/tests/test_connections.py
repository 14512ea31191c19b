"""Addresses, credentials, and where they are found."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from project_contracts.connections import Connections, DatabaseConnection, explain_settings_error, find_env_file

words = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)


@given(user=words, password=words, vhost=words)
def test_broker_url_keeps_every_character(user: str, password: str, vhost: str) -> None:
    url = urlsplit(
        Connections.model_validate(
            {
                "rabbitmq_user": user,
                "rabbitmq_password": password,
                "rabbitmq_vhost": vhost,
                "rabbitmq_host": "broker",
                "rabbitmq_port": 5673,
                "redis_password": "x",
            }
        ).broker
    )
    assert (url.scheme, url.hostname, url.port) == ("amqp", "broker", 5673)
    assert (unquote(url.username or ""), unquote(url.password or "")) == (user, password)
    assert unquote(url.path.removeprefix("/")) == vhost


@given(password=words)
def test_backend_url_keeps_every_character(password: str) -> None:
    connections = {"rabbitmq_password": "x", "redis_password": password, "redis_host": "results", "redis_db": 3}
    url = urlsplit(Connections.model_validate(connections).backend)
    assert (url.scheme, url.hostname, url.port, url.path) == ("redis", "results", 6379, "/3")
    assert unquote(url.password or "") == password


def test_whole_urls_replace_the_parts_and_their_passwords() -> None:
    connections = Connections.model_validate(
        {"broker_url": "amqps://u:p@elsewhere/v", "result_backend": "rediss://:p@elsewhere/1"}
    )
    assert connections.broker == "amqps://u:p@elsewhere/v"
    assert connections.backend == "rediss://:p@elsewhere/1"


@pytest.mark.parametrize(
    ("given_settings", "missing"),
    [
        ({}, ["rabbitmq_password", "redis_password"]),
        ({"rabbitmq_password": "x"}, ["redis_password"]),
        ({"rabbitmq_password": "", "redis_password": "x"}, ["rabbitmq_password"]),
        ({"broker_url": "amqp://u:p@h/v"}, ["redis_password"]),
        ({"result_backend": "redis://h"}, ["rabbitmq_password"]),
    ],
)
def test_missing_or_empty_password_is_named(given_settings: dict[str, str], missing: list[str]) -> None:
    with pytest.raises(ValidationError) as raised:
        Connections.model_validate(given_settings)
    assert [error["loc"] for error in raised.value.errors()] == [(field,) for field in missing]
    assert all(error["msg"].startswith("required") for error in raised.value.errors())


@pytest.mark.parametrize("given_settings", [{}, {"postgres_password": ""}])
def test_missing_or_empty_database_password_is_named(given_settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as raised:
        DatabaseConnection.model_validate(given_settings)
    assert "POSTGRES_PASSWORD: required" in explain_settings_error("it", raised.value)


def test_no_secret_is_shown() -> None:
    connections = Connections.model_validate({"rabbitmq_password": "hush-1", "redis_password": "hush-2"})
    assert "hush" not in repr(connections)
    assert "hush" not in connections.model_dump_json()


@pytest.mark.parametrize("field", ["rabbitmq_port", "redis_port"])
@pytest.mark.parametrize("port", [0, 65536, -1, "x"])
def test_impossible_port_is_refused(field: str, port: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Connections.model_validate({"rabbitmq_password": "x", "redis_password": "x", field: port})


def test_nearest_env_file_above_is_found(tmp_path: Path) -> None:
    deep = tmp_path / "repository" / "project-api" / "project-api"
    deep.mkdir(parents=True)
    assert find_env_file(deep) not in {tmp_path / ".stack" / "env", deep / ".stack" / "env"}

    for folder in (tmp_path, tmp_path / "repository"):
        (folder / ".stack").mkdir()
        (folder / ".stack" / "env").touch()
    assert find_env_file(deep) == tmp_path / "repository" / ".stack" / "env"
    assert find_env_file(tmp_path) == tmp_path / ".stack" / "env"


def test_folder_named_env_is_not_a_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / ".stack" / "env").mkdir(parents=True)
    assert find_env_file(tmp_path) != tmp_path / ".stack" / "env"
