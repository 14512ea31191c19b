"""What `status` shows of a service that gets ready in the background, and when that is too long."""

import os
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from stack import environments, services, settings, status
from stack.instance import Instance
from stack.supervision import ProgramState, Supervisor

ROOT = Path(__file__).parents[3]


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """A stack of which only pgAdmin's program runs, and does not answer."""
    values = {**settings.defaults(services.PORTS), "PGADMIN_PORT": "1"}
    made = Instance(repository=ROOT, state=tmp_path, values=values)
    begun = int(time.time()) - 3600
    running = ProgramState(name="pgadmin", code=20, state="RUNNING", pid=4242, started=begun, message="")
    monkeypatch.setattr(Supervisor, "is_up", True)
    monkeypatch.setattr(Supervisor, "states", lambda _: {"pgadmin": running})
    return made


def shown(instance: Instance) -> tuple[bool, str]:
    said = StringIO()
    is_well = status.show(instance, Console(file=said, width=200))
    (line,) = (line for line in said.getvalue().splitlines() if line.startswith("pgadmin"))
    return is_well, " ".join(line.split())


def installed(instance: Instance, seconds_ago: float) -> None:
    environment = environments.of_service("pgadmin")
    python = environments.python(environment, instance)
    python.parent.mkdir(parents=True)
    python.touch()
    stamp = instance.venv("pgadmin") / "stamp"
    stamp.write_text(environments._stamp(environment, instance))
    os.utime(stamp, (time.time(), time.time() - seconds_ago))


def test_it_is_being_installed_and_that_is_well(instance: Instance) -> None:
    is_well, line = shown(instance)
    assert is_well
    assert line.startswith("pgadmin installing 4242")


def test_it_starts_once_installed(instance: Instance) -> None:
    installed(instance, seconds_ago=5)
    is_well, line = shown(instance)
    assert is_well
    assert line.startswith("pgadmin starting 4242")


def test_it_is_not_well_when_it_takes_too_long(instance: Instance) -> None:
    installed(instance, seconds_ago=1000)
    is_well, line = shown(instance)
    assert not is_well
    assert "refused" in line
