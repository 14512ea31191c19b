"""compose.yaml as Docker Compose itself reads it: every service, its ports, its rights and limits, its mounts.

Nothing is started. What runs for real is in `e2e/test_9_docker.py`.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack import services
from stack.instance import Instance
from stack.servers import grafana
from stack.servers.projects import DEAD_LETTERS, PICKLE_QUEUE, QUEUE
from stack.service import Service

ROOT = Path(__file__).parents[3]
COMPOSE = Path(sys.executable).with_name("docker-compose")
TEXT = (ROOT / "compose.yaml").read_text()

# Of the seed and of our own table; the names are those that the seed's commands use.
CORE = {
    "postgres",
    "redis",
    "rabbitmq",
    "migrate",
    "project-api",
    "project-worker",
    "project-worker-pickle",
    "project-worker-reaper",
}
MONITORING = {
    "flower",
    "prometheus",
    "alertmanager",
    "grafana",
    "cadvisor",
    "node-exporter",
    "postgres-exporter",
    "redis-exporter",
}
ADMIN = {"pgadmin"}
LOGGING = {"elasticsearch", "elasticsearch-setup", "kibana", "kibana-setup", "filebeat"}
ONE_SHOTS = {"migrate", "elasticsearch-setup", "kibana-setup"}

# Natively only: Docker has cAdvisor instead of the one, `develop.watch` instead of the other.
NATIVE_ONLY = {services.PROCESS_EXPORTER.name, services.RELOAD.name}
# Nobody outside Docker's network has to reach these, and workers may be many.
INSIDE = {
    "WORKER_METRICS_PORT",
    "PICKLE_WORKER_METRICS_PORT",
    "RABBITMQ_DIST_PORT",
    "EPMD_PORT",
    "ELASTICSEARCH_TRANSPORT_PORT",
}

OURS = "full-stack-fastapi-celery/"
"""What the names of our own images begin with."""

Rendered = Mapping[str, Any]


def compose(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Compose in the clone, with no variable of ours but these."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return subprocess.run(
        [str(COMPOSE), *words], cwd=ROOT, env={**kept, **variables}, capture_output=True, text=True, check=False
    )


def render(*words: str, **variables: str) -> Rendered:
    done = compose(*words, "config", "--format", "json", **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # it warns about a variable that nobody sets
    rendered: Rendered = json.loads(done.stdout)
    return rendered


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    """Everything, as `.env` has it."""
    return render("--profile", "*")


@pytest.fixture(scope="module")
def entries(rendered: Rendered) -> Mapping[str, Any]:
    """The services."""
    found: Mapping[str, Any] = rendered["services"]
    return found


@pytest.fixture(scope="module")
def dotenv() -> Mapping[str, str]:
    """`.env`, as written."""
    lines = (ROOT / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def mounts(entry: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    return (mount for mount in entry.get("volumes", ()) if mount["type"] == kind)


def dockerfile_of(entry: Mapping[str, Any]) -> str:
    build = entry["build"]
    return Path(build["context"], build.get("dockerfile", "Dockerfile")).read_text()


def test_every_service_is_there_in_its_profile(entries: Mapping[str, Any]) -> None:
    profiles: dict[str, set[str]] = {}
    for name, entry in entries.items():
        profiles.setdefault(",".join(entry.get("profiles", ["core"])), set()).add(name)
    assert profiles == {"core": CORE, "monitoring": MONITORING, "admin": ADMIN, "logging": LOGGING}


def test_the_seeds_command_starts_all_but_logging() -> None:
    started = compose("-p", "local-dev", "config", "--services")
    assert set(started.stdout.split()) == CORE | MONITORING | ADMIN
    assert render()["name"] == "local-dev"  # without -p it is the same project


@pytest.mark.parametrize(
    "service", [s for s in services.SERVICES if s.name not in NATIVE_ONLY], ids=lambda s: s.name
)
def test_a_service_of_the_table_has_its_name_profile_and_ports_in_docker(
    service: Service, entries: Mapping[str, Any]
) -> None:
    entry = entries[service.name]
    assert entry.get("profiles", ["core"]) == [service.profile]
    published = {(port["published"], port["target"]) for port in entry.get("ports", ())}
    ours = {(str(port.default), port.default) for port in service.ports if port.variable not in INSIDE}
    assert published == ours


def test_each_port_moves_by_its_own_variable_on_loopback() -> None:
    variables = {port.variable: port.default for port in services.PORTS if port.variable not in INSIDE}
    variables = {name: number for name, number in variables.items() if name != "PROCESS_EXPORTER_PORT"}
    variables["CADVISOR_PORT"] = 8080
    moved = render("--profile", "*", **{name: str(number + 20_000) for name, number in variables.items()})
    ports = [port for entry in moved["services"].values() for port in entry.get("ports", ())]
    assert {port["target"]: port["published"] for port in ports} == {
        number: str(number + 20_000) for number in variables.values()
    }
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_the_api_alone_can_listen_beyond_loopback() -> None:
    asked = render("--profile", "*", API_HOST="0.0.0.0")["services"]  # noqa: S104 (asked for)
    beyond = {
        name
        for name, entry in asked.items()
        if any(port["host_ip"] != "127.0.0.1" for port in entry.get("ports", ()))
    }
    assert beyond == {"project-api"}
    assert not any(entry.get("network_mode") for entry in asked.values())  # the host's has every port


def test_every_image_is_one_exact_version(entries: Mapping[str, Any]) -> None:
    versions = {name: entry["image"].rpartition(":")[2] for name, entry in entries.items()}
    vague = {name for name, tag in versions.items() if not re.match(r"v?\d+\.\d+", tag)}
    assert not vague
    numbers = re.findall(r"^\s+image: \S+:\S*\d", TEXT, re.MULTILINE)
    assert not numbers  # they are in .env, all of them


def test_each_service_of_ours_can_be_built_alone(entries: Mapping[str, Any]) -> None:
    ours = {name: entry for name, entry in entries.items() if entry["image"].startswith(OURS)}
    assert {name for name, entry in entries.items() if "build" in entry} == ours.keys()
    for name, entry in ours.items():
        # Of its own: two builds of one name at once can fail.
        assert entry["image"].removeprefix(OURS).partition(":")[0] == name
        # Or Compose would ask Docker Hub first, where anybody could have one of the name.
        assert entry["pull_policy"] == "never", name
        assert "\nUSER " in dockerfile_of(entry), name  # not root


def test_no_service_has_more_rights_than_it_needs(entries: Mapping[str, Any]) -> None:
    for name, entry in entries.items():
        assert entry["cap_drop"] == ["ALL"], name
        assert entry["security_opt"] == ["no-new-privileges:true"], name
        assert not entry.get("privileged"), name
        assert not {"container_name", "userns_mode", "ipc"}.intersection(entry), name
    added = {name: entry["cap_add"] for name, entry in entries.items() if entry.get("cap_add")}
    assert added == {"cadvisor": ["SYSLOG"], "pgadmin": ["NET_BIND_SERVICE"]}
    assert {name for name, entry in entries.items() if entry.get("pid") == "host"} == {"node-exporter"}


def test_what_runs_as_root_or_writes_beside_its_program_is_known(entries: Mapping[str, Any]) -> None:
    writes = {name for name, entry in entries.items() if not entry.get("read_only")}
    assert writes == {"pgadmin", "elasticsearch", "kibana"}
    # The official images of these three start as root to become their account; ours, and all others, have one.
    assert {name: entry["user"] for name, entry in entries.items() if "user" in entry} == {
        "postgres": "postgres",
        "redis": "redis",
        "rabbitmq": "rabbitmq",
        "filebeat": "root",  # whose Docker's log files are
    }


def test_folders_in_memory_can_be_written_after_a_restart_too(entries: Mapping[str, Any]) -> None:
    # Docker gives one the mode of the folder beneath, which is root's and 0755 where the first start has made it.
    writable_in_its_image = {"/tmp", "/run/postgresql", "/var/log/rabbitmq"}
    for name, entry in entries.items():
        for place in entry.get("tmpfs", ()):
            folder, _, options = place.partition(":")
            assert folder in writable_in_its_image or "uid=" in options, (name, place)


def test_none_can_take_all_of_the_machine(entries: Mapping[str, Any]) -> None:
    for name, entry in entries.items():
        limits = entry["deploy"]["resources"]["limits"]
        assert 32 << 20 <= int(limits["memory"]) <= 2 << 30, name
        assert 0 < limits["pids"] <= 1000, name
        assert entry["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}, name


def test_a_service_comes_back_and_a_one_shot_does_not(entries: Mapping[str, Any]) -> None:
    for name, entry in entries.items():
        assert entry["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped"), name
        assert entry["init"] is True, name


def test_every_service_is_asked_for_its_health(entries: Mapping[str, Any]) -> None:
    for name, entry in entries.items():
        check = entry["healthcheck"]
        if name in ONE_SHOTS:
            assert check.get("disable") is True, name
            continue
        if entry["image"].startswith(OURS) and "test" not in check:
            assert "\nHEALTHCHECK " in dockerfile_of(entry), name
        else:
            assert check["test"][0] in ("CMD", "CMD-SHELL"), name
        assert {"interval", "timeout", "retries", "start_period"} <= check.keys(), name
        assert "start_interval" not in check, name  # engines before 25 refuse it
        assert "rabbitmq-diagnostics" not in str(check)  # 2 s of a processor each time


def test_a_service_waits_until_what_it_needs_works(entries: Mapping[str, Any]) -> None:
    waited_for = set()
    for name, entry in entries.items():
        for needed, how in entry.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in ONE_SHOTS else "service_healthy"
            assert how["condition"] == expected, (name, needed)
            if needed in ONE_SHOTS:
                waited_for.add(needed)
            # Or a core alone would drag other profiles in.
            assert set(entries[needed].get("profiles", ())) <= set(entry.get("profiles", ())), (name, needed)
    assert waited_for == ONE_SHOTS  # `up --wait` fails for one that nobody waits for


def test_schema_broker_and_backend_are_there_before_the_projects(entries: Mapping[str, Any]) -> None:
    assert set(entries["migrate"]["depends_on"]) == {"postgres"}
    for name in CORE - {"postgres", "redis", "rabbitmq", "migrate"}:
        assert set(entries[name]["depends_on"]) == {"migrate", "redis", "rabbitmq"}, name


def test_a_worker_may_finish_its_task_before_it_is_killed(entries: Mapping[str, Any]) -> None:
    source = (ROOT / "project-worker/project-worker/worker/config.py").read_text()
    found = re.search(r"task_time_limit_seconds: float = Field\(\s*default=(\d+)", source)
    assert found
    for name in ("project-worker", "project-worker-pickle"):
        grace = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", entries[name]["stop_grace_period"])
        assert grace
        assert int(grace[1] or 0) * 60 + int(grace[2] or 0) >= int(found[1]) + 30, name


def test_workers_can_be_many(entries: Mapping[str, Any]) -> None:
    for name in ("project-worker", "project-worker-pickle", "project-worker-reaper"):
        assert not {"ports", "container_name", "hostname"}.intersection(entries[name]), name
        assert not list(mounts(entries[name], "volume")), name


def test_the_programs_of_the_worker_work_the_queues_of_the_native_one(entries: Mapping[str, Any]) -> None:
    assert f"--queues={QUEUE}" in entries["project-worker"]["command"]
    assert f"--queues={PICKLE_QUEUE}" in entries["project-worker-pickle"]["command"]
    assert "async_celery.worker.reaper" in entries["project-worker-reaper"]["command"], DEAD_LETTERS


def test_the_projects_are_told_every_address_login_and_key(entries: Mapping[str, Any]) -> None:
    for name in CORE - {"postgres", "redis", "rabbitmq"}:
        told = entries[name]["environment"]
        for server, port in (("rabbitmq", "5672"), ("redis", "6379"), ("postgres", "5432")):
            assert (told[f"{server.upper()}_HOST"], told[f"{server.upper()}_PORT"]) == (server, port), name
            assert told[f"{server.upper()}_PASSWORD"], name
        assert {"ENVIRONMENT", "TASK_ID_KEY", "SIGNED_PICKLE_KEY", "RABBITMQ_VHOST"} <= told.keys(), name


def test_ports_of_this_machine_do_not_reach_into_containers() -> None:
    moved = render("--profile", "*", RABBITMQ_PORT="25001", REDIS_PORT="25002", POSTGRES_PORT="25003")
    inside = [
        json.dumps([entry.get("environment"), entry.get("command")]) for entry in moved["services"].values()
    ]
    assert not [text for text in inside if re.search(r"2500[123]", text)]


def test_every_file_that_is_mounted_is_ours_and_cannot_be_changed_from_inside(entries: Mapping[str, Any]) -> None:
    outside = set()
    for name, entry in entries.items():
        for mount in mounts(entry, "bind"):
            assert mount["read_only"] is True, (name, mount["target"])
            source = Path(mount["source"])
            if source.is_relative_to(ROOT):
                assert source.exists(), (name, source)  # Docker would make an empty folder of it
                assert source.is_relative_to(ROOT / "infra"), (name, source)
                assert source.stat().st_mode & 0o004, source  # containers have accounts of their own
            else:
                outside.add((name, str(source)))
    assert {name for name, _ in outside} == {"cadvisor", "node-exporter", "filebeat"}
    # Of the machine, and without `rslave`, which Mac and WSL refuse.
    assert ("node-exporter", "/") in outside
    assert "rslave" not in TEXT.replace("without `rslave`", "")


def test_data_outlives_its_container(rendered: Rendered, entries: Mapping[str, Any]) -> None:
    used = {
        (name, mount["source"], mount["target"])
        for name, entry in entries.items()
        for mount in mounts(entry, "volume")
    }
    assert {volume for _, volume, _ in used} == set(rendered["volumes"])
    assert {(volume, target) for _, volume, target in used} == {
        ("postgres-data", "/var/lib/postgresql"),  # not .../data, where image 18 refuses to start
        ("redis-data", "/data"),
        ("rabbitmq-data", "/var/lib/rabbitmq"),
        ("prometheus-data", "/prometheus"),
        ("alertmanager-data", "/alertmanager"),
        ("grafana-data", "/var/lib/grafana"),
        ("flower-data", "/var/lib/flower"),
        ("pgadmin-data", "/var/lib/pgadmin"),
        ("elasticsearch-data", "/usr/share/elasticsearch/data"),
        ("kibana-data", "/usr/share/kibana/data"),
        ("filebeat-data", "/var/lib/filebeat"),
    }
    assert entries["rabbitmq"]["hostname"] == "rabbitmq"  # part of its data's name


def test_the_api_alone_stands_in_front(entries: Mapping[str, Any]) -> None:
    front = {name for name, entry in entries.items() if "front-tier" in entry["networks"]}
    assert front == {"project-api"}
    assert all("back-tier" in entry["networks"] for entry in entries.values())


def test_a_change_of_the_code_is_watched(entries: Mapping[str, Any]) -> None:
    for name, paths in (
        ("project-api", {"project-api", "libs"}),
        ("project-worker", {"project-worker", "libs"}),
        ("flower", {"flower"}),
    ):
        watched = entries[name]["develop"]["watch"]
        assert {Path(rule["path"]).name for rule in watched} == paths
        # Nothing can be copied into a container whose files cannot be changed.
        assert {rule["action"] for rule in watched} == {"rebuild"}


def test_the_seeds_logins_are_in_the_committed_file(dotenv: Mapping[str, str]) -> None:
    assert (dotenv["RABBITMQ_USER"], dotenv["RABBITMQ_PASSWORD"]) == ("guest", "guest")
    assert {dotenv[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB")} == {"postgres"}
    assert dotenv["PGADMIN_PASSWORD"] == "postgres"
    assert dotenv["COMPOSE_PROFILES"] == "monitoring,admin"


def test_it_names_every_variable_and_no_other(dotenv: Mapping[str, str]) -> None:
    code = "\n".join(line.split(" # ")[0] for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)\}", code))
    assert used == set(dotenv) - {"COMPOSE_PROFILES"}


def test_a_shell_reads_it_as_compose_does(dotenv: Mapping[str, str]) -> None:
    script = "set -a; . ./.env; env -0"
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, env={}, capture_output=True, text=True, check=True)
    read = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    assert {name: read[name] for name in dotenv} == dotenv


def test_it_says_of_each_service_what_it_is_and_who_calls_it(entries: Mapping[str, Any]) -> None:
    blocks = re.findall(r"((?:^  # .*\n)+)^  ([a-z-]+):\n", TEXT, re.MULTILINE)
    said = {name: comment for comment, name in blocks if "alled by" in comment}
    assert set(said) == set(entries)


def test_grafana_finds_its_files_and_addresses(entries: Mapping[str, Any]) -> None:
    entry = entries["grafana"]
    inside = {mount["target"]: Path(mount["source"]) for mount in mounts(entry, "bind")}
    told = entry["environment"]
    assert inside["/etc/grafana/provisioning"] == ROOT / "infra/grafana/provisioning"  # where the image looks
    assert inside[told["DASHBOARDS_FOLDER"]] == ROOT / "infra/grafana/dashboards"
    home = Path(told["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (inside[str(home.parent)] / home.name).is_file()
    texts = "".join(path.read_text() for path in (ROOT / "infra/grafana/provisioning").glob("*/*.yml"))
    assert set(re.findall(r"(?<![\w$])\$([A-Z_]+)", texts)) <= told.keys()
    assert told["PROMETHEUS_URL"] == "http://prometheus:9090"


def test_grafana_has_the_native_ones_options(entries: Mapping[str, Any], tmp_path: Path) -> None:
    names = {port.variable: str(port.default) for port in services.PORTS}
    login = {"GRAFANA_USER": "admin", "GRAFANA_PASSWORD": "admin"}
    native = grafana.environment(Instance(repository=ROOT, state=tmp_path, values={**names, **login}))
    own = {"GF_SERVER_HTTP_ADDR", "GF_SERVER_HTTP_PORT"}  # the image's are right
    places = {name for name in native if name.startswith("GF_PATHS_")} | {
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
        "DASHBOARDS_FOLDER",
        "PROMETHEUS_URL",
    }
    told = entries["grafana"]["environment"]
    for name in native.keys() - own - places:
        assert told[name] == native[name], name


def test_pgadmin_is_set_up_by_the_same_file(entries: Mapping[str, Any]) -> None:
    entry = entries["pgadmin"]
    inside = {mount["target"]: Path(mount["source"]) for mount in mounts(entry, "bind")}
    assert inside["/pgadmin4/config_local.py"] == ROOT / "infra/pgadmin/config_local.py"
    start = inside[entry["entrypoint"][1]].read_text()
    told = set(entry["environment"])
    assert set(re.findall(r"\$\{?([A-Z_]+)", start)) <= told  # `set -u` would end it
    assert start.rstrip().endswith('exec /entrypoint.sh "$@"')


def test_pgadmins_password_file_is_its_own(entries: Mapping[str, Any], tmp_path: Path) -> None:
    script = (ROOT / "infra/pgadmin/docker-start.sh").read_text().replace("exec /entrypoint.sh", "exit 0 #")
    told = {
        **entries["pgadmin"]["environment"],
        "PGADMIN_DATA": str(tmp_path),
        "PGADMIN_SERVER_JSON_FILE": str(tmp_path / "servers.json"),
        "PATH": os.environ["PATH"],
    }
    subprocess.run(["sh", "-c", script], env=told, check=True)
    (server,) = json.loads((tmp_path / "servers.json").read_text())["Servers"].values()
    assert (server["Host"], server["Username"], server["MaintenanceDB"]) == ("postgres", "postgres", "postgres")
    passwords = tmp_path / "storage" / "postgres_example.com" / "pgpass"
    assert passwords.read_text() == "postgres:5432:*:postgres:postgres\n"
    assert passwords.stat().st_mode & 0o777 == 0o600  # pgAdmin's library takes no other
    assert server["ConnectionParameters"]["passfile"] == "/pgpass"


def test_redis_refuses_before_the_kernel_kills_it(entries: Mapping[str, Any]) -> None:
    command = entries["redis"]["command"][2]
    found = re.search(r"maxmemory (\d+)mb", command)
    assert found
    assert int(found[1]) << 20 < int(entries["redis"]["deploy"]["resources"]["limits"]["memory"]) * 0.7
    assert "--requirepass" not in command  # a list of processes would show it


def test_rabbitmq_holds_publishers_up_before_the_kernel_kills_it(entries: Mapping[str, Any]) -> None:
    found = re.search(
        r"^vm_memory_high_watermark.absolute = (\d+)MB$",
        (ROOT / "infra/rabbitmq/docker.conf").read_text(),
        re.MULTILINE,
    )
    assert found
    assert int(found[1]) * 1_000_000 < int(entries["rabbitmq"]["deploy"]["resources"]["limits"]["memory"]) * 0.7


def test_containers_are_seen_by_name(entries: Mapping[str, Any]) -> None:
    entry = entries["cadvisor"]
    assert {mount["source"] for mount in mounts(entry, "bind")} == {"/", "/var/run", "/sys", "/var/lib/docker/"}
    assert "--docker_only=true" in entry["command"]  # `name` is empty for other groups
    # The rules and dashboards ask for a container's name; memory kills come from the kernel's log.
    assert [device["source"] for device in entry["devices"]] == ["/dev/kmsg"]


def test_yaml_has_no_key_twice() -> None:
    class Loader(yaml.SafeLoader):
        """Refuses what PyYAML takes: the last of two equal keys."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), keys
        loader.flatten_mapping(node)
        return {
            loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value
        }

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    yaml.load(TEXT, Loader)  # noqa: S506 (a safe loader)
