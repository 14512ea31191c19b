"""The monitoring's configuration, checked by its own tools; and its servers, on what there is to watch."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, Stack, wait_until

from stack import services
from stack.servers import exporters, postgres
from stack.servers.prometheus import JOBS
from stack.service import Service
from stack.supervision import Supervisor

PROMETHEUS = ROOT / "infra" / "prometheus"
WATCHED = (
    "postgres",
    "redis",
    "postgres-exporter",
    "redis-exporter",
    "node-exporter",
    "process-exporter",
    "alertmanager",
    "prometheus",
)


def get(port: str, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of which the database and Redis are watched."""
    made = Stack(tmp_path_factory.mktemp("watching") / "state")
    try:
        assert "Prometheus scrapes 6 of 6 targets" in made.run("up", *WATCHED)
        yield made
    finally:
        made.run("down", "--volumes")
    assert made.processes() == []


def promtool(*words: str) -> None:
    program = shutil.which("promtool")
    assert program, "it comes with Debian's package prometheus, which `watching` installs"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_fire_as_their_tests_say(watching: Stack) -> None:
    promtool("check", "rules", *map(str, PROMETHEUS.glob("rules/*.yml")))
    promtool("test", "rules", *map(str, PROMETHEUS.glob("tests/*.yml")))
    promtool("check", "config", str(watching.state / "config" / "prometheus" / "prometheus.yml"))


@pytest.mark.usefixtures("watching")
def test_promtool_takes_what_the_containers_start_puts_together(tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS / "rules", tmp_path / "rules")
    shutil.copytree(PROMETHEUS / "docker-targets", tmp_path / "targets")
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "".join((PROMETHEUS / name).read_text() for name in ("prometheus.yml", "docker.yml"))
    )
    promtool("check", "config", str(configuration))


def test_every_alert_says_what_it_means_and_has_a_test(watching: Stack) -> None:
    groups = json.loads(get(watching.ports["PROMETHEUS_PORT"], "/api/v1/rules"))["data"]["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if rule["type"] == "alerting"]
    assert len(alerts) > 10
    tested = "".join(path.read_text() for path in PROMETHEUS.glob("tests/*.yml"))
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket", "none"}, alert["name"]
        assert alert["annotations"]["summary"], alert["name"]
        assert alert["annotations"]["description"], alert["name"]
        assert f'alertname="{alert["name"]}"' in tested, alert["name"]


def test_what_runs_is_scraped_and_what_is_stopped_is_told_to_alertmanager(watching: Stack) -> None:
    def health_of_jobs() -> dict[str, str]:
        targets = json.loads(get(watching.ports["PROMETHEUS_PORT"], "/api/v1/targets"))["data"]["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in targets}

    def watched() -> set[str]:
        return {job for job, health in health_of_jobs().items() if health == "up"}

    wait_until(
        lambda: watched() == {"postgres", "redis", "node", "process", "alertmanager", "prometheus"},
        20,
        "all is scraped",
    )
    assert set(health_of_jobs()) == {*JOBS, "rabbitmq-detailed"}

    def told() -> set[str]:
        alerts = json.loads(get(watching.ports["ALERTMANAGER_PORT"], "/api/v2/alerts"))
        return {alert["labels"]["alertname"] for alert in alerts}

    watching.run("stop", "redis")
    wait_until(lambda: "RedisDown" in told(), 60, "Alertmanager is told that Redis is down")
    watching.run("start", "redis")
    wait_until(lambda: "RedisDown" not in told(), 60, "Alertmanager is told that Redis is back")


def test_disks_and_open_files_of_programs_are_seen_whoever_runs_them(watching: Stack) -> None:
    def told(name: str) -> list[float]:
        page = get(watching.ports["PROCESS_EXPORTER_PORT"], "/metrics")  # it looks at every process anew
        return [float(value) for value in re.findall(rf"^{re.escape(name)} (\S+)", page, re.MULTILINE)]

    for name in ("supervisord", "postgres"):
        (ratio,) = told(f'namedprocess_namegroup_worst_fd_ratio{{groupname="{name}"}}')
        assert ratio > 0, name
    # One for each process that it may not read, every time; else only for one that ends at that moment.
    errors = "namedprocess_scrape_partial_errors"
    assert told(errors)
    wait_until(lambda: told(errors) == told(errors), 20, "no process keeps its numbers to itself")


def test_the_databases_statements_are_counted(watching: Stack) -> None:
    statement = (
        "SELECT pg_sleep(0.05) FROM pg_am WHERE amname = 'heap'"  # nobody else's, and not too quick to be shown
    )
    for _ in range(3):
        postgres.execute(watching.instance, statement)
    number = re.compile(r'pg_stat_statements_calls_total\{datname="project",queryid="(-?\d+)",.*\} (\d+)')

    def counted() -> dict[str, int]:
        page = get(watching.ports["POSTGRES_EXPORTER_PORT"], "/metrics")
        return {query: int(calls) for query, calls in number.findall(page)}

    before = counted()
    assert len(before) <= 100  # series do not grow with the number of statements
    for _ in range(7):  # nothing else is asked so often between two looks
        postgres.execute(watching.instance, statement)
    assert 3 in [before[query] for query, calls in counted().items() if before.get(query) == calls - 7]


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("0.11.1", "--extend.query-path=/q.yml"),
        ("0.14.0", "--collector.stat_statements"),
        ("0.20.1", "--collector.stat_statements"),
        (None, "--collector.stat_statements"),
    ],
)
def test_old_and_new_exporters_are_asked_for_statements_in_their_own_way(
    version: str | None, option: str
) -> None:
    assert exporters.statements(version, Path("/q.yml")) == option


@pytest.mark.parametrize(
    ("program", "port"),
    [
        ("postgres-exporter", "POSTGRES_EXPORTER_PORT"),
        ("redis-exporter", "REDIS_EXPORTER_PORT"),
        ("node-exporter", "NODE_EXPORTER_PORT"),
        ("process-exporter", "PROCESS_EXPORTER_PORT"),
        ("alertmanager", "ALERTMANAGER_PORT"),
        ("prometheus", "PROMETHEUS_PORT"),
    ],
)
def test_what_is_killed_comes_back(watching: Stack, program: str, port: str) -> None:
    supervisor = Supervisor(watching.instance)
    killed = supervisor.state(program).pid
    psutil.Process(killed).kill()
    wait_until(lambda: supervisor.state(program).pid not in (0, killed), 20, f"{program} is started again")

    def answers() -> bool:
        with suppress(OSError):
            return bool(get(watching.ports[port], "/metrics"))
        return False

    wait_until(answers, 20, f"{program} answers again")
    wait_until(lambda: supervisor.state(program).is_running, 20, f"{program} stays up")


@pytest.mark.parametrize("service", [services.GRAFANA, services.ELASTICSEARCH, services.KIBANA])
def test_what_is_not_installed_is_said_and_nothing_fails(watching: Stack, service: Service) -> None:
    if not service.is_left_out:
        pytest.skip(f"{service.name} is installed here")
    said = watching.run("status")
    assert re.search(rf"^{service.name} +not installed", said, re.MULTILINE), said
    assert f"{service.name} is not installed, and left out. To have it: " in said


def test_nothing_is_scraped_that_has_no_address() -> None:
    text = (PROMETHEUS / "prometheus.yml").read_text()
    for job in JOBS:
        assert f"targets/{job}.json" in text
    assert text.count("job_name:") == len(JOBS) + 1  # RabbitMQ is asked twice
    assert Path(ROOT / "infra" / "alertmanager" / "alertmanager.yml").exists()
