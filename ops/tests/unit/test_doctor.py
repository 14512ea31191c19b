"""Each check, in the situations that it is there for; and that no check can break the report."""

import os
import resource
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from stack import environments, ports, services, settings
from stack.doctor import checks, machine, parts, state
from stack.doctor.finding import Check, Finding, Level, Situation, ok, problem, warning
from stack.errors import MachineNotReadyError
from stack.health import UnhealthyError
from stack.instance import Instance
from stack.servers import postgres
from stack.service import Package
from stack.supervision import ProgramState

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
MEGABYTE = 1024 * 1024


@pytest.fixture
def down(tmp_path: Path) -> Situation:
    """A clone whose state folder is not there yet, on free ports."""
    (tmp_path / "clone").mkdir()
    numbers = ports.pick_free(len(services.PORTS))
    values = settings.defaults(services.PORTS)
    values |= {port.variable: str(number) for port, number in zip(services.PORTS, numbers, strict=True)}
    instance = Instance(repository=tmp_path / "clone", state=tmp_path / "state", values=values)
    return Situation(instance=instance, programs=None, processes=[], broken={})


@pytest.fixture
def up(down: Situation) -> Situation:
    return replace(down, programs={"redis": program("redis", 20), "postgres": program("postgres", 0)})


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 65534)


def program(name: str, code: int) -> ProgramState:
    return ProgramState(name=name, code=code, state="RUNNING", pid=1, started=1, message="")


def level(finding: Finding) -> str:
    assert finding.text
    assert bool(finding.fix) == (finding.level is not Level.OK)  # whatever is not well has a fix
    return finding.level.value


class TestMachine:
    """Python, uv, memory, disk, limits, clock."""

    def test_this_python_and_this_uv(self, down: Situation) -> None:
        assert level(machine.python(down)) == level(machine.uv(down)) == level(machine.setpriv(down)) == "ok"

    @pytest.mark.parametrize("program", ["/nonexistent/uv", "/bin/false"])
    def test_an_uv_that_does_not_run(
        self, down: Situation, monkeypatch: pytest.MonkeyPatch, program: str
    ) -> None:
        monkeypatch.setenv("STACK_UV", program)
        assert level(machine.uv(down)) == "problem"

    def test_a_base_python_that_is_gone(self, down: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STACK_BASE_PYTHON", "/nonexistent/python3")
        assert level(machine.python(down)) == "problem"

    @pytest.mark.parametrize(("free", "when_down", "when_up"), [
        (4096, "ok", "ok"), (1000, "warning", "ok"), (100, "problem", "warning"),
    ])  # fmt: skip
    def test_memory(
        self,
        down: Situation,
        up: Situation,
        monkeypatch: pytest.MonkeyPatch,
        free: int,
        when_down: str,
        when_up: str,
    ) -> None:
        monkeypatch.setattr(machine, "_free_in_container", lambda: free * MEGABYTE)
        assert (level(machine.memory(down)), level(machine.memory(up))) == (when_down, when_up)

    @pytest.mark.parametrize(("free", "expected"), [(9000, "ok"), (1000, "warning"), (100, "problem")])
    def test_disk(self, down: Situation, monkeypatch: pytest.MonkeyPatch, free: int, expected: str) -> None:
        usage = machine.shutil._ntuple_diskusage(0, 0, free * MEGABYTE)  # type: ignore[attr-defined]
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        assert level(machine.disk(down)) == expected

    @pytest.mark.parametrize(("limits", "expected"), [
        ((256, 256), "problem"), ((256, 4096), "ok"), ((resource.RLIM_INFINITY,) * 2, "ok"),
    ])  # fmt: skip
    def test_open_files(
        self,
        down: Situation,
        somebody: None,
        monkeypatch: pytest.MonkeyPatch,
        limits: tuple[int, int],
        expected: str,
    ) -> None:
        monkeypatch.setattr("resource.getrlimit", lambda _: limits)
        assert level(machine.open_files(down)) == expected

    @pytest.mark.parametrize(("ahead", "expected"), [(0, "ok"), (600, "warning"), (3 * 24 * 3600, "problem")])
    def test_a_clock_behind_the_files(self, down: Situation, ahead: int, expected: str) -> None:
        file = down.instance.repository / "source.py"
        file.touch()
        os.utime(file, (time.time() + ahead, time.time() + ahead))
        finding = machine.clock(down)
        assert level(finding) == expected
        assert (str(file) in finding.text) == bool(ahead)

    def test_a_clock_that_steps_back(self, down: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
        times = iter([5.0, 6.0, 4.0])
        monkeypatch.setattr("time.time", lambda: next(times))
        assert level(machine.clock(down)) == "warning"


class TestPackages:
    """There, absent, too old, unknown."""

    def look(self, down: Situation, found: Path | None, version: str | None = "15.2") -> Finding:
        entry = Package(name="server", find=lambda: found, version=lambda _: version, oldest=(15,))
        return parts.package(entry)(down)

    @pytest.mark.parametrize(
        ("version", "expected"), [("15.2", "ok"), ("15", "ok"), ("14.9", "problem"), (None, "warning")]
    )
    def test_its_version(self, down: Situation, version: str | None, expected: str) -> None:
        assert level(self.look(down, Path("/x"), version)) == expected

    def test_root_has_it_installed_by_up(self, down: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 0)
        monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/apt-get")
        assert level(self.look(down, None)) == "warning"

    def test_others_get_the_line(self, down: Situation, somebody: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/apt-get")
        finding = self.look(down, None)
        assert level(finding) == "problem"
        assert "sudo" in finding.fix
        assert "apt-get install -y --no-install-recommends server" in finding.fix

    def test_the_real_ones_say_their_versions(self) -> None:
        entries = [package for service in services.SERVICES for package in service.packages]
        found = {package.name: path for package in entries if (path := package.find()) is not None}
        versions = {entry.name: entry.version(found[entry.name]) for entry in entries if entry.name in found}
        assert None not in versions.values()


class TestPorts:
    """Free, ours, somebody else's, reserved."""

    REDIS = services.REDIS.ports[0]

    @pytest.fixture
    def listener(self, down: Situation) -> Iterator[None]:
        with socket.create_server(("127.0.0.1", down.instance.port("REDIS_PORT"))):
            yield

    def test_free(self, down: Situation) -> None:
        assert level(parts.port(self.REDIS, services.REDIS)(down)) == "ok"

    def test_somebody_elses(self, down: Situation, listener: None) -> None:
        ((_, finding),) = checks.run([Check(name="port", look=parts.port(self.REDIS, services.REDIS))], down)
        assert level(finding) == "problem"
        assert f"(pid {os.getpid()})" in finding.text
        assert "REDIS_PORT=" in finding.fix
        assert "STACK_PORT_OFFSET=100 ./stack up" in finding.fix

    def test_ours(self, down: Situation, listener: None) -> None:
        situation = replace(down, processes=[psutil.Process()])
        assert "in use by this stack" in parts.port(self.REDIS, services.REDIS)(situation).text

    def test_reserved(self, down: Situation) -> None:
        instance = replace(down.instance, values={**down.instance.values, "REDIS_PORT": "80"})
        finding = parts.port(self.REDIS, services.REDIS)(replace(down, instance=instance))
        assert level(finding) == "problem"
        assert "REDIS_PORT=10080" in finding.fix


class TestLogins:
    """Asked only where a server runs."""

    def refuse(self, _: Instance) -> None:
        raise UnhealthyError("wrong password")

    def test_down_and_stopped_are_no_errors(self, down: Situation, up: Situation) -> None:
        assert parts.login(services.REDIS, self.refuse)(down) == ok("not tried: the stack is down")
        assert "it is stopped" in parts.login(services.POSTGRES, self.refuse)(up).text

    def test_what_a_starting_server_says(self, up: Situation) -> None:
        started = replace(program("redis", 20), started=int(time.time()))
        starting = replace(up, programs={"redis": started})
        look = parts.login(services.REDIS, self.refuse)
        assert level(look(starting)) == "warning"
        with socket.create_server(("127.0.0.1", up.instance.port("REDIS_PORT"))):  # it listens: it has started
            assert level(look(starting)) == "problem"

    def test_what_a_running_server_says(self, up: Situation) -> None:
        finding = parts.login(services.REDIS, self.refuse)(up)
        assert level(finding) == "problem"
        assert "wrong password" in finding.text
        assert level(parts.login(services.REDIS, lambda _: None)(up)) == "ok"


class TestState:
    """What earlier runs have left."""

    def examine(self, situation: Situation, environ: Mapping[str, str] = {}) -> Situation:
        return checks.examine(situation.instance.repository, situation.instance.state, environ)

    def test_a_fresh_clone_is_well_and_stays_as_it_is(self, down: Situation) -> None:
        situation = self.examine(down)
        looks = (state.folder, state.settings, state.supervisor, state.processes, state.owners, state.database)
        assert {level(look(situation)) for look in (*looks, state.python_environments)} == {"ok"}
        assert not situation.instance.state.exists()

    def test_broken_settings(self, down: Situation) -> None:
        down.instance.state.mkdir()
        down.instance.env_file.write_text("A='\n")
        finding = state.settings(self.examine(down))
        assert level(finding) == "problem"
        assert "line 1" in finding.text

    def test_lost_credentials(self, down: Situation) -> None:
        down.instance.data("redis").mkdir(parents=True)
        finding = state.settings(self.examine(down))
        assert level(finding) == "problem"
        assert "credentials are gone" in finding.text

    def test_ports_are_those_that_up_would_use(self, down: Situation) -> None:
        assert self.examine(down, {"STACK_PORT_OFFSET": "7"}).instance["API_PORT"] == "5007"
        assert level(state.settings(self.examine(down, {"API_PORT": "x"}))) == "problem"

    def test_a_supervisor_that_does_not_answer(self, down: Situation) -> None:
        down.instance.run.mkdir(parents=True)
        down.instance.socket.write_text("no socket")
        assert level(state.supervisor(self.examine(down))) in ("warning", "problem")

    def test_what_a_killed_supervisor_left(self, down: Situation) -> None:
        down.instance.run.mkdir(parents=True)
        (down.instance.run / "supervisord.pid").write_text("1\n")
        assert "supervisord.pid" in state.supervisor(self.examine(down)).text
        finding = state.processes(replace(down, processes=[psutil.Process()]))
        assert level(finding) == "warning"
        assert f"(pid {os.getpid()})" in finding.text

    def test_a_file_in_the_place_of_a_folder(self, down: Situation) -> None:
        down.instance.state.mkdir()
        (down.instance.state / "data").touch()
        assert level(state.folder(down)) == "problem"

    @needs_root
    def test_folders_of_somebody_else(self, down: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
        down.instance.state.mkdir()
        os.chown(down.instance.state, 65534, 65534)
        assert level(state.folder(down)) == "warning"  # root can
        (down.instance.state / "data").mkdir()
        monkeypatch.setattr("os.geteuid", lambda: 65534)
        finding = state.folder(down)
        assert level(finding) == "problem"
        assert "belongs to root" in finding.text

    @needs_root
    def test_data_of_another_account(self, down: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
        down.instance.data("redis").mkdir(parents=True)
        monkeypatch.setattr("os.geteuid", lambda: 65534)
        finding = state.owners(down)
        assert level(finding) == "problem"
        assert "belongs to root, the server would run as nobody" in finding.text

    def test_data_of_a_postgresql_that_is_not_here(
        self, down: Situation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "lib/16/bin").mkdir(parents=True)
        (tmp_path / "lib/16/bin/postgres").touch()
        monkeypatch.setattr(postgres, "_DEBIAN", tmp_path / "lib")
        cluster = down.instance.data("postgres") / "cluster"
        cluster.mkdir(parents=True)
        (cluster / "PG_VERSION").write_text("14\n")
        with pytest.raises(MachineNotReadyError, match="made by PostgreSQL 14"):
            state.database(down)
        (cluster / "PG_VERSION").write_text("16\n")
        assert "16" in state.database(down).text

    def test_half_made_environments(self, down: Situation) -> None:
        for name in ("project-api", "project-worker"):
            (down.instance.repository / name).mkdir()
            (down.instance.repository / name / "requirements.lock").touch()
            (down.instance.venv(name) / "bin").mkdir(parents=True)
        finding = state.python_environments(down)
        assert level(finding) == "warning"
        assert "project-worker, project-api" in finding.text
        api = environments.of_service("project-api")
        (down.instance.venv("project-api") / "stamp").write_text(environments._stamp(api, down.instance))
        assert "project-api" in state.python_environments(down).text  # its Python is not there
        environments.python(api, down.instance).touch()
        assert state.python_environments(down).text == "half made or outdated: project-worker"


class TestReport:
    """The report as a whole."""

    def crash(self, _: Situation) -> Finding:
        raise RuntimeError("surprise")

    def test_a_check_that_fails_is_a_line_and_the_others_go_on(self, down: Situation) -> None:
        table = [Check(name="a", look=self.crash), Check(name="b", look=lambda _: ok("well"))]
        first, second = (finding for _, finding in checks.run(table, down))
        assert (level(first), level(second)) == ("warning", "ok")
        assert "surprise" in first.text

    @pytest.mark.parametrize(("finding", "code", "exit_code"), [
        (ok("well"), 3, 0), (warning("so", "do"), 3, 0), (problem("no", "do"), 3, 3), (problem("no", "do"), 1, 1),
    ])  # fmt: skip
    def test_only_problems_count(
        self, down: Situation, monkeypatch: pytest.MonkeyPatch, finding: Finding, code: int, exit_code: int
    ) -> None:
        monkeypatch.setattr(checks, "CHECKS", [Check(name="it", look=lambda _: finding, exit_code=code)])
        console = Console(width=100)
        with console.capture() as said:
            assert checks.show(down, console) == exit_code
        lines = said.get().splitlines()
        assert lines[0].split() == [finding.level.value, "it", finding.text]
        assert ("-> do" in lines[1]) == (finding.level is not Level.OK)
        assert ("./stack up" in lines[-1]) or exit_code

    def test_names_are_unique(self) -> None:
        names = [check.name for check in checks.CHECKS]
        assert len(set(names)) == len(names)
