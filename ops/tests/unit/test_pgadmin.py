"""The program that installs pgAdmin and becomes it: it goes on trying, and keeps secrets to itself."""

import json
import os
import stat
from pathlib import Path

import pytest

from stack import environments, pgadmin, services, settings
from stack.errors import StackError
from stack.instance import Instance
from stack.servers import pgadmin as server

ROOT = Path(__file__).parents[3]


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    state = tmp_path / "state"
    (state / "venvs/pgadmin/lib/python3.13/site-packages/pgadmin4").mkdir(parents=True)
    values = settings.settle({}, {"POSTGRES_PASSWORD": r"a:b\c"}, services.PORTS, has_data=False, is_up=False)
    return Instance(repository=ROOT, state=state, values=values)


def test_a_failed_installation_is_tried_again_later(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def make(environment: environments.Environment, *_: object, **__: object) -> None:
        made.append(environment.name)
        if len(made) < 3:
            raise StackError("making the environment pgadmin failed", hint="no route to the index")

    monkeypatch.setattr(environments, "make", make)
    monkeypatch.setattr(server, "steps", lambda _: [])
    slept: list[float] = []
    pgadmin.get_ready(instance, sleep=slept.append)
    assert made == ["pgadmin"] * 3
    assert slept == [10, 30]
    said = capsys.readouterr().out
    assert "trying again in 30 s" in said
    assert "no route to the index" in said


def test_its_installation_gives_way_to_everything_else(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class GivesUpError(Exception):
        pass

    def give_up(_: float) -> None:
        raise GivesUpError

    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\nnice >> {tmp_path}/niceness\nexit 1\n")
    uv.chmod(0o755)
    monkeypatch.setenv("STACK_UV", str(uv))
    (instance.state / "logs").mkdir()
    with pytest.raises(GivesUpError):
        pgadmin.get_ready(instance, sleep=give_up)
    assert (tmp_path / "niceness").read_text() == f"{min(os.nice(0) + 10, 19)}\n"


def test_the_server_is_listed_with_a_password_that_only_pgadmin_reads(instance: Instance) -> None:
    server.configure(instance)
    (listed,) = json.loads((instance.config("pgadmin") / "servers.json").read_text())["Servers"].values()
    assert instance["POSTGRES_PASSWORD"] not in json.dumps(listed)
    assert listed["ConnectionParameters"]["passfile"] == "/pgpass"
    (passwords,) = instance.data("pgadmin").glob("storage/*/pgpass")
    assert passwords.parent.name == "project_example.com"
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600
    assert passwords.read_text() == r"127.0.0.1:5432:project:project:a\:b\\c" + "\n"


def test_no_command_line_shows_a_secret_and_it_listens_on_loopback(instance: Instance) -> None:
    commands = [*server.steps(instance), server.server_command(instance), server.command(instance)]
    words = [word for command in commands for word in command]
    secrets = [instance[name] for name in settings.SECRETS]
    assert not [word for word in words for secret in secrets if secret in word]
    assert f"127.0.0.1:{instance['PGADMIN_PORT']}" in words
