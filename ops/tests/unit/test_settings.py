"""The settings file: its format, what wins over what, and what is refused."""

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack import settings
from stack.errors import MachineNotReadyError, UsageError
from stack.ports import OFFSET
from stack.services import PORTS

VALUES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40)


def settle(
    remembered: dict[str, str], environ: dict[str, str], *, has_data: bool = False, is_up: bool = False
) -> dict[str, str]:
    return settings.settle(remembered, environ, PORTS, has_data=has_data, is_up=is_up)


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z_]{0,20}", fullmatch=True), VALUES, max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("settings") / "env"
    settings.write(path, values)
    assert settings.read(path) == values


def test_a_shell_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "env"
    settings.write(path, {"A": "plain", "B": 'it\'s "quoted" $HOME `x` #no \\'})
    script = f'set -a; . "{path}"; printf "%s|%s" "$A" "$B"'
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == 'plain|it\'s "quoted" $HOME `x` #no \\'


def test_the_file_is_private_even_when_it_replaces_a_public_one(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("A=1\n")
    path.chmod(0o644)
    settings.write(path, {"A": "2"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [place.name for place in tmp_path.iterdir()] == ["env"]


@pytest.mark.parametrize("line", ["nonsense", "B='no end", "B=1 2"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "env"
    path.write_text(f"A=1\n{line}\n")
    with pytest.raises(MachineNotReadyError, match="line 2"):
        settings.read(path)


def test_the_first_settings_have_defaults_and_different_long_secrets() -> None:
    values = settle({}, {})
    secrets = [values[name] for name in settings.SECRETS]
    assert len(set(secrets)) == len(settings.SECRETS) == 8
    assert all(len(secret) >= 32 for secret in secrets)
    assert values["API_PORT"] == "5000"
    assert values["API_HOST"] == "127.0.0.1"
    assert settle(values, {}) == values


def test_the_environment_wins_and_unknown_variables_stay_out() -> None:
    values = settle({"API_PORT": "5001"}, {"API_PORT": "5002", "REDIS_PORT": "", "SHELL": "/bin/sh"})
    assert values["API_PORT"] == "5002"
    assert values["REDIS_PORT"] == "6379"  # an empty variable is no value
    assert "SHELL" not in values


def test_a_port_that_is_newer_than_the_file_moves_with_the_others() -> None:
    remembered = settle({}, {"STACK_PORT_OFFSET": "100"})
    del remembered["API_PORT"]
    assert settle(remembered, {})["API_PORT"] == "5100"
    assert settle(remembered, {"STACK_PORT_OFFSET": "200"})["API_PORT"] == "5200"


def test_a_moved_port_is_remembered() -> None:
    assert settle(settle({}, {"API_PORT": "5009"}), {})["API_PORT"] == "5009"


@pytest.mark.parametrize("value", ["0", "65536", "-1", "abc", "80.5", "٣"])
def test_a_port_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="API_PORT"):
        settle({}, {"API_PORT": value})


def test_two_services_on_one_port_are_refused() -> None:
    with pytest.raises(UsageError, match="API_PORT and REDIS_PORT are both 6379"):
        settle({}, {"API_PORT": "6379"})


def test_lost_credentials_of_existing_data_are_said() -> None:
    with pytest.raises(MachineNotReadyError, match="credentials are gone") as caught:
        settle({}, {}, has_data=True)
    assert "down --volumes" in caught.value.hint


def test_a_secret_that_no_data_needs_is_made_when_it_is_missing() -> None:
    """As in a stack that was made before this secret existed."""
    remembered = settle({}, {})
    del remembered["SIGNED_PICKLE_KEY"]
    values = settle(remembered, {}, has_data=True, is_up=True)
    assert len(values["SIGNED_PICKLE_KEY"]) >= 32
    assert values.items() >= remembered.items()


def test_other_credentials_than_the_datas_are_refused_without_printing_them() -> None:
    remembered = settle({}, {})
    with pytest.raises(MachineNotReadyError, match="POSTGRES_PASSWORD") as caught:
        settle(remembered, {"POSTGRES_PASSWORD": "canary-secret"}, has_data=True)
    assert "canary-secret" not in caught.value.message + caught.value.hint
    assert settle(remembered, {"POSTGRES_PASSWORD": "canary-secret"})["POSTGRES_PASSWORD"] == "canary-secret"


def test_a_running_stack_cannot_be_moved() -> None:
    remembered = settle({}, {})
    with pytest.raises(MachineNotReadyError, match="up with API_PORT=5000"):
        settle(remembered, {"API_PORT": "5001"}, is_up=True)
    assert settle(remembered, {"API_PORT": "5000"}, is_up=True) == remembered


def test_what_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "env").write_bytes(b"A=\xff\n")
    for path in (tmp_path / "env", tmp_path):
        with pytest.raises(MachineNotReadyError, match="cannot read"):
            settings.read(path)


def moved(values: dict[str, str], port: str) -> int:
    return int(values[port]) - int(settings.defaults(PORTS)[port])


def test_an_offset_moves_every_port_and_is_remembered() -> None:
    values = settle(settle({}, {OFFSET: "100"}), {})
    assert {moved(values, port.variable) for port in PORTS} == {100}


def test_a_ports_own_variable_wins_over_the_offset_then_and_later() -> None:
    values = settle({}, {OFFSET: "100", "API_PORT": "5009"})
    assert (values["API_PORT"], values["REDIS_PORT"]) == ("5009", "6479")
    values = settle(values, {OFFSET: "200"})
    assert (values["API_PORT"], values["REDIS_PORT"]) == ("5009", "6579")
    values = settle(values, {OFFSET: "0"})
    assert (values["API_PORT"], values["REDIS_PORT"]) == ("5009", "6379")


@pytest.mark.parametrize("value", ["abc", "1.5", "60000", "-5000"])
def test_an_offset_that_gives_no_ports_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="is no"):
        settle({}, {OFFSET: value})


def test_a_running_stack_is_not_shifted() -> None:
    with pytest.raises(MachineNotReadyError, match=f"up with {OFFSET}=0"):
        settle(settle({}, {}), {OFFSET: "100"}, is_up=True)


def test_the_projects_own_settings_are_remembered_once_they_are_given() -> None:
    assert not set(settings.OPTIONAL) & settle({}, {}).keys()
    values = settle({}, {"LOG_FORMAT": "json"})
    assert settle(values, {})["LOG_FORMAT"] == "json"
    with pytest.raises(MachineNotReadyError, match="LOG_LEVEL"):
        settle(values, {"LOG_LEVEL": "DEBUG"}, is_up=True)
