"""Grafana where it is installed: which program is taken, as whom, and that its links lead to this instance."""

import re
import threading
from pathlib import Path

import pytest

from stack import packages, services, settings
from stack.instance import Instance
from stack.servers import grafana
from stack.service import Service

ROOT = Path(__file__).parents[3]


def make_home(folder: Path) -> Path:
    """A folder as Grafana's archive and its package have it; returns the program."""
    for name in ("bin/grafana", "conf/defaults.ini"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch(mode=0o755)
    return folder / "bin" / "grafana"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Grafana; one may be put into `package`, or on PATH into `usr/sbin` or `archive/bin`."""
    monkeypatch.setenv("PATH", f"{tmp_path}/usr/sbin:{tmp_path}/archive/bin")
    monkeypatch.setattr(grafana, "_PACKAGE", tmp_path / "package")
    return tmp_path


def test_the_packages_own_program_is_taken_not_the_script_on_path(machine: Path) -> None:
    script = machine / "usr" / "sbin" / "grafana"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    assert grafana.find() is None  # its home would be /usr
    program = make_home(machine / "package")
    assert grafana.find() == program
    instance = Instance(repository=ROOT, state=machine / "state", values={})
    assert grafana.command(instance) == [str(program), "server", f"--homepath={machine / 'package'}"]


def test_an_archives_program_is_found_on_path(machine: Path) -> None:
    program = make_home(machine / "archive")
    assert grafana.find() == program


@pytest.mark.parametrize("service", [services.GRAFANA, services.ELASTICSEARCH, services.KIBANA])
def test_it_is_not_given_to_the_supervisor_before_its_account_is_there(service: Service, machine: Path) -> None:
    make_home(machine / "archive")
    for name in ("elasticsearch", "kibana"):
        (machine / "archive" / "bin" / name).touch(mode=0o755)
    assert not service.is_left_out
    assert not service.is_installed  # or root could start nothing at all: `setpriv` needs the account
    missing = packages.missing(package for each in (service, services.PROMETHEUS) for package in each.packages)
    assert [package.name for package in missing] == ["prometheus"]


def test_every_link_leads_to_a_port_of_this_instance(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grafana, "USER", None)
    environ = {"STACK_PORT_OFFSET": "20000"}
    values = settings.settle({}, environ, services.PORTS, has_data=False, is_up=False)
    instance = Instance(repository=ROOT, state=machine / "state", values=values)
    grafana.prepare(instance, threading.Event())
    copies = "".join(path.read_text() for path in instance.config("grafana").glob("dashboards/*.json"))
    assert set(re.findall(r"http://127\.0\.0\.1:(\d+)", copies)) == {"25000", "25555", "25601"}
    assert grafana.environment(instance)["KIBANA_URL"] == "http://127.0.0.1:25601"
    source = instance.config("grafana") / "provisioning" / "datasources" / "prometheus.yml"
    assert "url: $KIBANA_URL/app/discover" in source.read_text()
