"""What the machine lacks: packages and PostgreSQL's versions, without touching the machine."""

import threading
from pathlib import Path

import pytest

from stack import packages
from stack.errors import GivenUpError, MachineNotReadyError, StackError
from stack.instance import Instance
from stack.processes import run
from stack.servers import postgres
from stack.service import Package


def instance(folder: Path) -> Instance:
    return Instance(repository=folder, state=folder, values={})


def package(name: str, found: Path | None) -> Package:
    return Package(name=name, unit=f"{name}.service", find=lambda: found)


def test_a_package_is_missing_when_its_program_is(tmp_path: Path) -> None:
    there, absent = package("a", tmp_path), package("b", None)
    assert packages.missing([there, absent]) == [absent]


def test_a_user_who_is_not_root_gets_the_exact_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MachineNotReadyError, match="redis-server, rabbitmq-server") as caught:
        packages.install(
            [package("redis-server", None), package("rabbitmq-server", None)],
            instance(tmp_path),
            threading.Event(),
        )
    assert "sudo apt-get install -y --no-install-recommends redis-server rabbitmq-server" in caught.value.hint


class TestPolicy:
    """The file that keeps Debian's scripts from starting services."""

    @pytest.fixture
    def policy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(packages, "_POLICY", tmp_path / "policy-rc.d")
        return tmp_path / "policy-rc.d"

    def test_it_is_there_meanwhile_and_gone_after_ctrl_c(self, policy: Path) -> None:
        with pytest.raises(KeyboardInterrupt), packages._nothing_starts():
            assert policy.read_text().endswith("exit 101\n")
            assert policy.stat().st_mode & 0o111
            raise KeyboardInterrupt
        assert not policy.exists()

    def test_the_machines_own_is_left_alone(self, policy: Path) -> None:
        policy.write_text("#!/bin/sh\nexit 104\n")
        with packages._nothing_starts():
            pass
        assert policy.read_text() == "#!/bin/sh\nexit 104\n"

    def test_one_that_a_killed_run_left_is_ours(self, policy: Path) -> None:
        policy.write_text(packages._POLICY_TEXT)
        with packages._nothing_starts():
            pass
        assert not policy.exists()


class TestPostgresVersions:
    """Data is only ever opened by the major version that made it."""

    @pytest.fixture(autouse=True)
    def versions(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for version in ("9", "15", "16"):
            (tmp_path / "lib" / version / "bin").mkdir(parents=True)
            (tmp_path / "lib" / version / "bin" / "postgres").touch()
        monkeypatch.setattr(postgres, "_DEBIAN", tmp_path / "lib")

    def data_of(self, version: str, folder: Path) -> Instance:
        cluster = folder / "data" / "postgres" / "cluster"
        cluster.mkdir(parents=True)
        (cluster / "PG_VERSION").write_text(f"{version}\n")
        return instance(folder)

    def test_new_data_is_made_by_the_newest(self, tmp_path: Path) -> None:
        assert postgres.command(instance(tmp_path))[0] == str(tmp_path / "lib/16/bin/postgres")

    def test_old_data_keeps_its_version(self, tmp_path: Path) -> None:
        assert postgres.command(self.data_of("15", tmp_path))[0] == str(tmp_path / "lib/15/bin/postgres")

    def test_a_version_that_is_not_installed_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(MachineNotReadyError, match="made by PostgreSQL 14") as caught:
            postgres.command(self.data_of("14", tmp_path))
        assert "postgresql-14" in caught.value.hint


class TestRun:
    """Programs that run to their end."""

    def test_a_failure_shows_its_own_last_lines(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text("of an earlier run\n")
        with pytest.raises(StackError, match="exit code 7") as caught:
            run(["sh", "-c", "echo why; exit 7"], log=log, cancelled=threading.Event(), what="it")
        assert "why" in caught.value.hint
        assert "earlier" not in caught.value.hint

    def test_giving_up_ends_it(self, tmp_path: Path) -> None:
        cancelled = threading.Event()
        script = f"trap 'echo ended > {tmp_path}/ended; exit' INT; echo ready; while :; do sleep 0.1; done"
        threading.Timer(0.3, cancelled.set).start()
        with pytest.raises(GivenUpError):
            run(["sh", "-c", script], log=tmp_path / "log", cancelled=cancelled, what="it")
        assert (tmp_path / "ended").exists()
