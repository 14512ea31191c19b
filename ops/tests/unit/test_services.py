"""The table is consistent: whatever is derived from it can rely on that."""

from pathlib import Path

import pytest

from stack import services, settings
from stack.errors import UsageError
from stack.instance import Instance
from stack.servers import grafana, projects

PROGRAMS = [program for service in services.SERVICES for program in service.programs]


def test_names_are_unique() -> None:
    names = [service.name for service in services.SERVICES]
    assert len(set(names)) == len(names)
    programs = [program.name for program in PROGRAMS]
    assert len(set(programs)) == len(programs)


def test_ports_are_unique_and_the_documented_ones() -> None:
    ports = {port.variable: port.default for port in services.PORTS}
    assert len(ports) == len(services.PORTS) == len(set(ports.values()))
    assert ports == {
        "API_PORT": 5000,
        "WORKER_METRICS_PORT": 9808,
        "PICKLE_WORKER_METRICS_PORT": 9809,
        "POSTGRES_PORT": 5432,
        "REDIS_PORT": 6379,
        "RABBITMQ_PORT": 5672,
        "RABBITMQ_MANAGEMENT_PORT": 15672,
        "RABBITMQ_PROMETHEUS_PORT": 15692,
        "RABBITMQ_DIST_PORT": 25672,
        "EPMD_PORT": 4370,
        "FLOWER_PORT": 5555,
        "POSTGRES_EXPORTER_PORT": 9187,
        "REDIS_EXPORTER_PORT": 9121,
        "NODE_EXPORTER_PORT": 9100,
        "PROCESS_EXPORTER_PORT": 9256,
        "ALERTMANAGER_PORT": 9093,
        "PROMETHEUS_PORT": 9090,
        "GRAFANA_PORT": 3000,
        "ELASTICSEARCH_PORT": 9200,
        "ELASTICSEARCH_TRANSPORT_PORT": 9300,
        "KIBANA_PORT": 5601,
        "PGADMIN_PORT": 5050,
    }


def test_needs_name_services_and_have_no_circle() -> None:
    known = {service.name for service in services.SERVICES}
    done: set[str] = set()
    waiting = list(services.SERVICES)
    while waiting:
        startable = [service for service in waiting if done.issuperset(service.needs)]
        assert startable, f"needs of {[service.name for service in waiting]} are never met; known: {known}"
        done |= {service.name for service in startable}
        waiting = [service for service in waiting if service not in startable]


def test_links_name_settings_that_exist() -> None:
    values = settings.defaults(services.PORTS)
    for service in services.SERVICES:
        for link in service.links:
            assert "{" not in (link.url + link.login).format_map(values)


def test_the_last_program_carries_the_services_name() -> None:
    # status, logs and the stop order rely on it
    assert [service.programs[-1].name for service in services.SERVICES] == [s.name for s in services.SERVICES]


def test_postgres_and_celery_get_the_signals_that_they_end_on() -> None:
    programs = {program.name: program for program in PROGRAMS}
    assert (programs["postgres"].stop_signal, programs["postgres"].death_signal) == ("INT", "INT")
    assert (programs["project-worker"].stop_signal, programs["project-worker"].death_signal) == ("TERM", "KILL")


def test_the_projects_run_by_the_documented_commands(tmp_path: Path) -> None:
    values = {**settings.defaults(services.PORTS), "API_PORT": "5001"}
    instance = Instance(repository=tmp_path, state=tmp_path / ".stack", values=values)
    programs = {program.name: program for program in PROGRAMS}
    api = programs["project-api"].command(instance)
    assert api[0] == str(tmp_path / ".stack/venvs/project-api/bin/uvicorn")
    assert api[1:8] == ["api:app", "--host", "127.0.0.1", "--port", "5001", "--workers", "1"]
    worker = " ".join(programs["project-worker"].command(instance))
    assert (
        "bin/celery -A tasks:app worker --pool prefork -Q project-worker -n worker@%h --concurrency=2" in worker
    )
    pickle = " ".join(programs["project-worker-pickle"].command(instance))
    assert "bin/celery -A pickle_tasks:app worker --pool prefork -Q project-worker-pickle -n pickle@%h" in pickle
    reaper = " ".join(programs["project-worker-reaper"].command(instance))
    assert reaper.endswith("bin/python -m async_celery.worker.reaper -A tasks:app")
    assert programs["project-api"].directory(instance) == tmp_path / "project-api/project-api"
    assert programs["project-worker"].directory(instance) == tmp_path / "project-worker/project-worker"


def test_the_projects_are_told_no_secret_of_the_servers_around_them(tmp_path: Path) -> None:
    asked = dict.fromkeys(settings.OPTIONAL, "https://example.com/secret")
    values = settings.settle({}, asked, services.PORTS, has_data=False, is_up=False)
    told = projects.environment(Instance(repository=tmp_path, state=tmp_path, values=values))
    others = {"FLOWER_PASSWORD", "GRAFANA_PASSWORD", "PGADMIN_PASSWORD"}
    assert set(settings.SECRETS) - set(told) == others
    assert set(settings.OPTIONAL) & set(told) == {"LOG_FORMAT", "LOG_LEVEL"}


def test_by_name_keeps_the_tables_order_and_lists_names_when_wrong() -> None:
    chosen = services.by_name(["redis", "postgres"])
    assert [service.name for service in chosen] == ["postgres", "redis"]
    with pytest.raises(UsageError) as caught:
        services.by_name(["redis", "rediss"])
    assert "rediss" in caught.value.message
    assert "postgres, redis, rabbitmq" in caught.value.hint


def test_profiles_choose_what_can_be_started_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def names(*profiles: str) -> set[str]:
        return {service.name for service in services.of_profiles(profiles)}

    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(grafana, "_PACKAGE", tmp_path / "package")
    assert services.PROFILES == ("core", "monitoring", "logging", "admin")
    assert names("core") == {"postgres", "redis", "rabbitmq", "project-worker", "project-api", "reload"}
    assert names("admin") == {"pgadmin"}
    assert names("logging") == set()  # no package brings them
    assert "grafana" not in names("monitoring")
    for program in ("grafana", "elasticsearch", "kibana"):
        (tmp_path / "bin" / program).touch(mode=0o755)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "defaults.ini").touch()  # without it, a script that calls Grafana
    assert names("logging") == {"elasticsearch", "kibana"}
    assert names() == names("core", "monitoring", "admin")
    assert "grafana" in names("monitoring")
    with pytest.raises(UsageError) as caught:
        names("core", "monitor")
    assert "monitor" in caught.value.message
    assert "core, monitoring" in caught.value.hint


def test_every_service_says_where_its_page_is() -> None:
    # a server's README tells what it is, who calls it, its login
    root = Path(__file__).parents[3]
    for service in services.SERVICES:
        if service.name.startswith("project-"):
            assert (root / service.name / "README.md").is_file(), service.name
        elif service is not services.RELOAD:
            assert (root / "infra" / service.name / "README.md").is_file(), service.name


def test_with_needs_adds_what_is_needed_and_nothing_else() -> None:
    names = [service.name for service in services.with_needs(services.by_name(["project-worker"]))]
    assert names == ["postgres", "redis", "rabbitmq", "project-worker"]
