"""A stack in containers, with a `docker` that answers what the real one was seen to answer.

How it works: `fake_docker.py` stands as `docker` on PATH. It keeps containers in a file, so `up`, `ps`, `stop`
and `down` agree with each other, and misbehaves as a file `trouble` tells it. Its answers were recorded from
Compose 5.6 and engine 20.10. The real engine is met in `e2e/test_9_docker.py`.
"""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from rich.console import Console

from stack import cli, mode, ports
from stack.docker import engine, memory, waiting
from stack.docker.model import Declared
from stack.doctor import docker as checks
from stack.errors import StackError

ROOT = Path(__file__).parents[3]
FAKE = Path(__file__).with_name("fake_docker.py")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


class Clone:
    """A clone with a compose.yaml of three services, a machine with a fake Docker, and its ./stack."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone"
        self.state = folder / "state"
        self.machine = folder / "machine"
        programs = folder / "bin"
        for made in (self.folder, self.folder / "infra", self.machine, programs):
            made.mkdir()
        docker = programs / "docker"
        docker.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} {self.machine} docker "$@"\n')
        docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
        (self.folder / "compose.yaml").write_text("services: # ${API_PORT} ${COLOUR}\n")
        self.port, flower = ports.pick_free(2)
        settings = f"ENVIRONMENT=development\nCOMPOSE_PROFILES=monitoring\nAPI_PORT={self.port}\n"
        settings += f"FLOWER_PORT={flower}\nFLOWER_USER=admin\nFLOWER_PASSWORD=admin\n"
        (self.folder / ".env").write_text(settings)
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "STACK_ROOT": str(self.folder),
            "STACK_STATE": str(self.state),
            "PYTHONPATH": ".",
        }

    def stack(self, *words: str, **variables: str) -> Done:
        """Run ./stack to its end, in this process: its start would take longer than all that it does here."""
        said, complained, code = StringIO(), StringIO(), 0
        with (
            patch.dict(os.environ, {**self.environment, **variables}, clear=True),
            redirect_stdout(said),
            redirect_stderr(complained),
        ):
            try:
                cli.app(words, prog_name="./stack")
            except StackError as error:
                print(f"error: {error.message}\n{error.hint}", file=sys.stderr)
                code = error.exit_code
            except SystemExit as ended:
                code = int(ended.code or 0)
        return Done(returncode=code, stdout=said.getvalue(), stderr=complained.getvalue())

    def ails(self, **troubles: object) -> None:
        """Make the machine misbehave."""
        (self.machine / "trouble").write_text(json.dumps(troubles))

    @property
    def calls(self) -> list[list[str]]:
        """What Compose was called with, after `-p PROJECT`, without mere questions."""
        lines = (self.machine / "calls").read_text().splitlines()
        words = [json.loads(line) for line in lines]
        return [said for said in words if not {"ps", "config", "logs", "info", "volume", "version"} & set(said)]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    monkeypatch.setattr(waiting, "_POLL", 0.02)
    return Clone(tmp_path)


@pytest.fixture
def up(clone: Clone) -> Clone:
    """A stack that an earlier command has started."""
    running = {"state": "running", "health": "healthy"}
    containers = dict.fromkeys(("rabbitmq", "project-api", "flower"), running)
    (clone.machine / "containers").write_text(
        json.dumps(containers | {"migrate": {"state": "exited", "code": 0}})
    )
    clone.state.mkdir()
    memory.write(clone.state, memory.Memory(environment={"COMPOSE_PROJECT_NAME": "local-dev"}, scale={}))
    return clone


class TestUpAndDown:
    """From nothing to a stack, and back."""

    def test_every_service_gets_a_line_and_links_their_logins(self, clone: Clone) -> None:
        done = clone.stack("up", "--docker")
        assert (done.returncode, done.stderr) == (0, "")
        for line in (r"^rabbitmq +ready +\d+\.\d s$", r"^migrate +done +\d+\.\d s$", r"^project-api +ready "):
            assert re.search(line, done.stdout, re.MULTILINE), line
        assert f"http://127.0.0.1:{clone.port}/docs" in done.stdout
        assert re.search(r"Flower: workers and tasks .* user admin, password: admin$", done.stdout, re.MULTILINE)
        assert clone.calls == [["-p", "local-dev", "up", "--detach"]]

    def test_production_shows_no_password(self, clone: Clone) -> None:
        done = clone.stack("up", "--docker", ENVIRONMENT="production")
        assert "user admin, password: FLOWER_PASSWORD" in done.stdout

    def test_later_commands_mean_the_same_stack(self, clone: Clone) -> None:
        clone.stack("up", "--docker", COMPOSE_PROJECT_NAME="mine", COLOUR="red", FLOWER_PASSWORD="x")
        assert "x" in clone.stack("urls").stdout.split()
        assert clone.stack("stop", "rabbitmq").returncode == 0
        assert clone.calls[-1] == ["-p", "mine", "--profile", "*", "stop", "rabbitmq"]
        assert json.loads((clone.machine / "environment").read_text())["COLOUR"] == "red"
        assert stat.S_IMODE((clone.state / "docker.env").stat().st_mode) == 0o600

    def test_up_alone_goes_on_with_docker(self, up: Clone) -> None:
        assert "Up with Docker" in up.stack("up").stdout
        assert up.calls == [["-p", "local-dev", "up", "--detach"]]

    def test_all_ports_move_at_once(self, clone: Clone) -> None:
        assert "http://127.0.0.1:12000/docs" in clone.stack("up", "--docker", STACK_PORT_OFFSET="7000").stdout
        wrong = clone.stack("up", "--docker", STACK_PORT_OFFSET="x")
        assert (wrong.returncode, wrong.stdout) == (2, "")

    def test_profiles_and_names(self, clone: Clone) -> None:
        assert clone.stack("up", "--docker", "--profile", "core").returncode == 0
        assert json.loads((clone.machine / "environment").read_text())["COMPOSE_PROFILES"] == ""
        assert clone.stack("up", "--docker", "--build", "flower").returncode == 0
        assert clone.calls[-1] == [
            "-p", "local-dev", "--profile", "monitoring", "up", "--detach", "--build", "flower",
        ]  # fmt: skip
        assert "profiles: core, monitoring" in clone.stack("up", "--docker", "--profile", "nope").stderr
        assert "services: " in clone.stack("up", "--docker", "nope").stderr

    def test_no_profile_at_all_is_one_choice_of_them(self, clone: Clone) -> None:
        done = clone.stack("up", "--docker", COMPOSE_PROFILES="")
        assert (done.returncode, done.stderr) == (0, "")
        assert "flower" not in done.stdout
        assert memory.path(clone.state).read_text().count("COMPOSE_PROFILES=''") == 1

    def test_who_is_told_about_alerts_is_a_secret(self, clone: Clone) -> None:
        template = clone.folder / "infra" / "alertmanager" / "alertmanager.yml"
        template.parent.mkdir()
        template.write_text((ROOT / "infra" / "alertmanager" / "alertmanager.yml").read_text())
        assert clone.stack("up", "--docker", ALERT_WEBHOOK_URL="http://127.0.0.1:9/canary").returncode == 0
        [written] = [path for path in clone.state.rglob("*.yml") if "canary" in path.read_text()]
        assert json.loads((clone.machine / "environment").read_text())["ALERTMANAGER_CONFIG"] == str(written)
        assert stat.S_IMODE(written.parent.stat().st_mode) == 0o700  # others cannot go in
        assert stat.S_IMODE(written.stat().st_mode) == 0o644  # the container's user is one of them
        assert clone.stack("down").returncode == 0
        assert not written.exists()

    def test_native_and_docker_do_not_mix(self, up: Clone) -> None:
        done = up.stack("up", "--native")
        assert (done.returncode, done.stdout) == (1, "")
        assert "./stack down, then ./stack up --native" in done.stderr
        assert up.stack("up", "--native", "--build").returncode == 2

    def test_down_forgets_the_stack(self, up: Clone) -> None:
        done = up.stack("down", "--volumes")
        assert done.returncode == 0, done.stderr
        assert re.search(r"^Down after \d+\.\d s\.$", done.stdout, re.MULTILINE)
        assert "deleted volume local-dev_rabbitmq-data" in done.stdout
        assert up.calls[-1] == ["-p", "local-dev", "--profile", "*", "down", "--remove-orphans", "--volumes"]
        assert not (up.state / "docker.env").exists()
        assert "To start it: ./stack up\n" in up.stack("status").stdout  # native again

    def test_reset_takes_the_containers_along(self, up: Clone) -> None:
        assert up.stack("reset", "--yes").returncode == 0
        assert up.calls[-1][-1] == "--volumes"
        assert not up.state.exists()

    def test_there_is_a_way_back_when_docker_is_gone(self, up: Clone) -> None:
        native = up.stack("up", "--native", PATH="/nonexistent")
        assert f"if Docker is gone: rm {memory.path(up.state)}" in native.stderr
        done = up.stack("reset", "--yes", PATH="/nonexistent")
        assert done.returncode == 0
        assert "Docker is not installed: containers and volumes stay as they are" in " ".join(done.stderr.split())
        assert not up.state.exists()

    def test_reset_goes_on_when_the_engine_is_silent(self, up: Clone) -> None:
        up.ails(engine="Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?")
        done = up.stack("reset", "--yes")
        assert done.returncode == 0, done.stderr
        assert "containers and volumes stay as they are" in " ".join(done.stderr.split())
        assert not up.state.exists()

    def test_a_memory_that_somebody_has_broken(self, up: Clone) -> None:
        with memory.path(up.state).open("a") as file:
            file.write("STACK_SCALE_project-api=abc\n")
        done = up.stack("status")
        assert (done.returncode, done.stdout) == (3, "")
        assert f"{memory.path(up.state)}: STACK_SCALE_project-api is no number" in done.stderr
        assert up.stack("reset", "--yes").returncode == 0
        assert not up.state.exists()

    def test_an_interrupted_first_up_leaves_nothing(self, clone: Clone) -> None:
        clone.ails(slow=True)
        with subprocess.Popen(
            [sys.executable, "-m", "stack", "up", "--docker"],
            cwd=ROOT / "ops", env=clone.environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        ) as process:  # fmt: skip
            deadline = time.monotonic() + 30
            while not (clone.machine / "containers").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        assert process.returncode in (130, -signal.SIGINT)
        assert "is down again" in said
        assert clone.calls[-1] == ["-p", "local-dev", "--profile", "*", "down"]
        assert not (clone.state / "docker.env").exists()


class TestWhatFails:
    """Each failure names the service, its last lines and what to do."""

    @pytest.mark.parametrize(
        ("trouble", "said"),
        [
            ({"fails": "migrate", "code": 7}, ["migrate failed: Exited (7)", "  migrate speaks"]),
            ({"fails": "migrate", "code": 137}, ["Exited (137)", "it was killed: for want of memory"]),
            (
                {"unhealthy": "rabbitmq"},
                ["rabbitmq is unhealthy", "  rabbitmq speaks", "./stack logs rabbitmq"],
            ),
            (
                {"crashes": "project-api"},
                ["project-api ends again and again: Restarting (3)", "project-api speaks"],
            ),
            (
                {
                    "unhealthy": "rabbitmq",
                    "says": "Error: in 18+, these Docker images are configured to store database data",
                },
                ["made by an older PostgreSQL", "./stack down --volumes"],
            ),
            (
                {"refuses": 'Error Get "https://registry-1.docker.io/v2/": dial tcp: no such host'},
                ["Docker Compose could not start the services", "no such host", "the image cannot be fetched"],
            ),
            (
                {"refuses": "Error: Bind for 127.0.0.1:5672 failed: port is already allocated"},
                ["STACK_PORT_OFFSET"],
            ),
        ],
    )
    def test_up(
        self, clone: Clone, trouble: Mapping[str, object], said: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clone.ails(**trouble)
        for patience in ("_UNHEALTHY", "_CRASHES"):
            monkeypatch.setattr(waiting, patience, 0.5)
        monkeypatch.setenv("PATH", clone.environment["PATH"])
        quiet = Console(file=StringIO())
        with pytest.raises(StackError) as failed:
            mode.docker(clone.folder, clone.state, {}, [], quiet).up([], quiet)
        for text in said:
            assert text in f"{failed.value.message}\n{failed.value.hint}"

    def test_a_one_shot_that_nobody_waits_for_is_not_waited_for(
        self, clone: Clone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "_AFTER_COMPOSE", 90.0)
        clone.ails(fails="migrate", code=1, nobody_needs_it=True)
        begin = time.monotonic()
        assert "migrate failed: Exited (1)" in clone.stack("up", "--docker").stderr
        assert time.monotonic() - begin < 60

    def test_an_earlier_runs_failure_is_not_blamed(self, up: Clone) -> None:
        up.ails(leftover="migrate", refuses="Error response from daemon: no such host")
        assert "Docker Compose could not start the services" in up.stack("up").stderr

    def test_a_taken_port_is_named_with_its_owner(self, clone: Clone) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", clone.port))
            taken.listen()
            done = clone.stack("up", "--docker")
            doctor = clone.stack("doctor", "--docker")
        assert done.returncode == doctor.returncode == 3
        owner = f"{psutil.Process().name()} (pid {os.getpid()})"
        assert f"port {clone.port} (project-api) is taken by {owner}" in done.stderr
        assert f"API_PORT={clone.port + 10} ./stack up --docker" in doctor.stdout
        assert clone.calls == []

    @pytest.mark.parametrize(
        ("trouble", "said"),
        [
            ({"engine": "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?"},
             "sudo systemctl start docker"),
            ({"engine": "failed to connect to the docker API at unix:///x; check if the path is correct"},
             "start Docker Desktop"),
            ({"engine": "permission denied while trying to connect to the Docker daemon socket at unix:///x"},
             "sudo usermod -aG docker"),
            ({"version": "1.29.2"}, "too old: docker compose is 1.29.2; 2.24 or newer is needed"),
            ({"version": ""}, "docker is here, but its Compose is not"),
        ],
    )  # fmt: skip
    def test_a_machine_that_is_not_ready(self, clone: Clone, trouble: Mapping[str, object], said: str) -> None:
        clone.ails(**trouble)
        done = clone.stack("up", "--docker")
        assert (done.returncode, done.stdout) == (3, "")
        assert said in done.stderr
        doctor = clone.stack("doctor", "--docker")
        assert (doctor.returncode, doctor.stderr) == (3, "")
        assert said in doctor.stdout
        assert not (clone.state / "docker.env").exists()

    def test_files_that_containers_cannot_read(self, clone: Clone) -> None:
        closed = clone.folder / "infra" / "redis.conf"
        closed.touch(mode=0o640)
        doctor = clone.stack("doctor", "--docker")
        assert doctor.returncode == 3
        assert f"1 files or folders of infra/ are closed to containers, such as {closed}" in doctor.stdout
        assert f"chmod -R a+rX {closed.parent}" in doctor.stdout
        closed.chmod(0o644)
        assert "containers can read infra/" in clone.stack("doctor", "--docker").stdout

    def test_a_machine_without_docker(self, clone: Clone) -> None:
        done = clone.stack("up", "--docker", PATH="/nonexistent")
        assert done.returncode == 3
        assert "Docker is not installed" in done.stderr
        assert "./stack up --native" in done.stderr

    def test_commands_of_a_stack_that_is_down(self, up: Clone) -> None:
        (up.machine / "containers").unlink()  # by `docker compose down`, of which ./stack knows nothing
        stop = up.stack("stop", "rabbitmq")
        assert (stop.returncode, stop.stdout) == (1, "")
        assert "./stack up --docker rabbitmq" in stop.stderr
        status = up.stack("status")
        assert status.returncode == 0
        assert "The stack is down. To start it: ./stack up --docker" in status.stdout


class TestOneService:
    """Commands about single services."""

    def test_status_says_how_each_is(self, up: Clone) -> None:
        done = up.stack("status")
        assert done.returncode == 0
        assert re.search(rf"^project-api +ready +1 +Up 4 seconds +{up.port} *$", done.stdout, re.MULTILINE)
        assert re.search(r"^migrate +done +1 +Exited \(0\) 2 seconds ago +- *$", done.stdout, re.MULTILINE)
        assert up.stack("stop", "project-api").returncode == 0
        stopped = up.stack("status")
        assert stopped.returncode == 0  # on purpose
        assert re.search(r"^project-api +stopped +1 +Exited \(143\)", stopped.stdout, re.MULTILINE)
        assert up.stack("start", "project-api").returncode == 0
        assert re.search(r"^project-api +ready ", up.stack("status").stdout, re.MULTILINE)

    def test_a_container_that_is_replaced_meanwhile_is_no_error(self, up: Clone) -> None:
        (up.machine / "vanishing").touch()
        done = up.stack("status")
        assert (done.returncode, done.stderr) == (0, "")
        assert not (up.machine / "vanishing").exists()

    @pytest.mark.parametrize(
        ("state", "word"),
        [
            ({"state": "exited", "code": 1}, "failed"),
            ({"state": "restarting", "code": 1}, "ends again and again"),
            ({"state": "running", "health": "unhealthy"}, "unhealthy"),
            ({"state": "running", "health": "starting"}, "starting"),
            ({"state": "created"}, "waiting"),
        ],
    )
    def test_status_is_1_when_one_is_not_well(self, up: Clone, state: dict[str, object], word: str) -> None:
        file = up.machine / "containers"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"migrate": state}))
        done = up.stack("status")
        assert done.returncode == 1
        assert re.search(rf"^migrate +{word} ", done.stdout, re.MULTILINE)

    def test_restart_without_names_leaves_one_shots_and_the_stopped_alone(self, up: Clone) -> None:
        up.stack("stop", "flower")
        assert up.stack("restart").returncode == 0
        assert up.calls[-1] == [
            "-p", "local-dev", "--profile", "*", "restart", "--no-deps", "rabbitmq", "project-api",
        ]  # fmt: skip

    def test_scale_holds_until_down(self, up: Clone) -> None:
        done = up.stack("scale", "rabbitmq=3")
        assert done.returncode == 0, done.stderr
        assert re.search(r"^rabbitmq +ready +3 ", up.stack("status").stdout, re.MULTILINE)
        up.stack("up")
        assert up.calls[-1] == ["-p", "local-dev", "up", "--detach", "--scale=rabbitmq=3"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("project-api=2", "only one project-api: it has a port"),
            ("migrate=2", "only one migrate: it runs once"),
            ("rabbitmq", "rabbitmq is no SERVICE=N"),
            ("nope=2", "compose.yaml has no service nope"),
        ],
    )
    def test_what_cannot_be_scaled(self, up: Clone, words: str, said: str) -> None:
        done = up.stack("scale", words)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr

    def test_natively_nothing_is_scaled(self, clone: Clone) -> None:
        done = clone.stack("scale", "project-worker=3")
        assert done.returncode == 2
        assert "WORKER_CONCURRENCY=3" in done.stderr

    def test_logs(self, up: Clone) -> None:
        assert up.stack("logs", "rabbitmq").stdout == "rabbitmq-1 | rabbitmq speaks\n"
        line = "2026-11-23 01:40:43.123 INFO project-api access [abc] done"
        up.ails(says=line)
        found = up.stack("logs", "--request", "abc")
        assert found.stdout.splitlines().count(f"rabbitmq-1    | {line}") == 1
        nothing = up.stack("logs", "--request", "xyz")
        assert (nothing.returncode, nothing.stdout) == (1, "")
        assert "no line carries request xyz" in nothing.stderr


class TestDoctor:
    """What it finds of Docker, and what to do about it."""

    def test_a_machine_that_is_ready(self, clone: Clone) -> None:
        done = clone.stack("doctor", "--docker")
        assert done.returncode == 0, done.stdout
        assert re.search(r"^ok +Compose +5\.6\.1 \(docker compose\)$", done.stdout, re.MULTILINE)
        assert re.search(r"^ok +engine +20\.10\.24, Debian", done.stdout, re.MULTILINE)
        assert "Docker is ready: ./stack up --docker" in done.stdout
        assert not clone.state.exists()

    def test_a_killed_one_shot(self, up: Clone) -> None:
        file = up.machine / "containers"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"migrate": {"state": "exited", "code": 137}}))
        done = up.stack("doctor")  # by itself: the stack is a Docker one
        assert done.returncode == 3
        assert re.search(r"^problem +migrate +failed: Exited \(137\)", done.stdout, re.MULTILINE)
        for fix in ("./stack logs migrate", "it was killed", "what waits for its success has not been started"):
            assert fix in done.stdout

    @pytest.mark.parametrize(
        ("gigabytes", "profiles", "found"),
        [
            (8, {"monitoring"}, "ok"),
            (1, {"monitoring"}, "warning"),
            (8, {"logging"}, "ok"),
            (4, {"logging"}, "problem"),
        ],
    )
    def test_memory(self, gigabytes: int, profiles: set[str], found: str) -> None:
        looked = checks.memory_of_engine(situation(gigabytes=gigabytes, profiles=profiles))
        assert looked.level.value == found

    @pytest.mark.parametrize(("count", "found"), [("65530\n", "warning"), ("1048576\n", "ok")])
    def test_map_count(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: str, found: str) -> None:
        (tmp_path / "max_map_count").write_text(count)
        monkeypatch.setattr(checks, "_MAP_COUNT_FILE", tmp_path / "max_map_count")
        looked = checks.map_count(situation(profiles={"logging"}))
        assert looked.level.value == found
        assert ("sysctl -w vm.max_map_count" in looked.fix) == (found == "warning")
        assert "virtual" in checks.map_count(situation(profiles={"logging"}, system="Docker Desktop")).text
        assert "not needed" in checks.map_count(situation(name="redis")).text

    @pytest.mark.parametrize(
        ("files", "found"),
        [
            ({}, "ok"),
            ({"PG_VERSION": "14"}, "problem"),  # the seed's volume
            ({"data/PG_VERSION": "17"}, "problem"),
            ({"18/docker/PG_VERSION": "18"}, "ok"),
            ({"17/docker/PG_VERSION": "17", "18/docker/PG_VERSION": "18"}, "ok"),
        ],
    )
    def test_database(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], found: str
    ) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")
        monkeypatch.setattr(engine, "volume", lambda *_: tmp_path)
        looked = checks.database(situation(name="postgres"))
        assert looked.level.value == found
        assert ("./stack down --volumes" in looked.fix) == (found == "problem")

    @pytest.mark.parametrize(
        ("path", "said"), [("", "docker; what up --docker needs"), ("/nonexistent", "nor needed")]
    )
    def test_the_native_doctor_says_where_to_look(self, clone: Clone, path: str, said: str) -> None:
        done = clone.stack("doctor", **({"PATH": path} if path else {}))
        assert re.search(rf"^ok +Docker +.*{said}", done.stdout, re.MULTILINE)

    def test_a_clone_on_a_disk_of_windows(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "osrelease").write_text("5.15.153.1-microsoft-standard-WSL2\n")
        monkeypatch.setattr(checks, "_KERNEL_FILE", tmp_path / "osrelease")
        assert checks.platform(situation(repository=Path("/mnt/c/clone"))).level.value == "warning"
        assert "WSL" in checks.platform(situation(repository=Path("/home/me/clone"))).text
        assert "Docker Desktop" in checks.platform(situation(system="Docker Desktop 4.50")).text


GIGABYTE = 1024**3


def situation(
    *,
    name: str = "elasticsearch",
    profiles: set[str] | None = None,
    gigabytes: int = 16,
    system: str = "Debian",
    repository: Path = ROOT,
) -> checks.Situation:
    """Return what the checks look at, of one service that may use 3 GB."""
    service = Declared(
        name=name,
        image=f"{name}:18.6",
        profiles=frozenset(profiles or ()),
        needs=frozenset(),
        ports=(),
        is_one_shot=False,
        memory=3 * GIGABYTE,
        volumes=(("local-dev_data", "/data"),),
    )
    return checks.Situation(
        environ={},
        values={},
        repository=repository,
        engine=engine.Engine(
            version="29", system=system, memory=gigabytes * GIGABYTE, folder=Path("/nonexistent")
        ),
        wanted=(service,),
        containers=(),
        is_native_up=False,
    )
