"""What Prometheus scrapes in Docker: the native jobs, at services that exist, on the ports they listen on."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from stack import services
from stack.servers.prometheus import JOBS, PROGRAMS

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "infra" / "prometheus"
DOCKER: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
TARGETS = {path.stem: json.loads(path.read_text()) for path in PROMETHEUS.glob("docker-targets/*.json")}

# Natively a program's processes, in Docker its container; and the workers, who are found by name (below).
NOT_BY_FILE = {"process", "project-worker"}


def joined() -> dict[str, Any]:
    """The configuration as the container's start puts it together."""
    text = "".join((PROMETHEUS / name).read_text() for name in ("prometheus.yml", "docker.yml"))
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def test_every_native_job_has_its_targets_in_docker() -> None:
    assert set(TARGETS) == set(JOBS) - NOT_BY_FILE
    defaults = {port.variable: port.default for port in services.PORTS}
    for job, (group,) in TARGETS.items():
        targets = [target.partition(":") for target in group["targets"]]
        assert [int(port) for _, _, port in targets] == [defaults[variable] for variable in JOBS[job]], job
        for name, _, port in targets:
            listens = {published.rpartition(":")[2] for published in DOCKER[name]["ports"]}
            assert port in listens, (job, name)


def test_its_start_joins_both_files_where_it_reads_them() -> None:
    entry = DOCKER["prometheus"]
    mounted = dict(mount.removesuffix(":ro").rsplit(":", 1) for mount in entry["volumes"])
    inside = {target: source for source, target in mounted.items()}
    script = entry["entrypoint"][2]
    found = re.fullmatch(r'cat (\S+) (\S+) > (\S+) && exec prometheus "\$\$@"', script)
    assert found
    assert [inside[found[1]], inside[found[2]]] == [
        "./infra/prometheus/prometheus.yml",
        "./infra/prometheus/docker.yml",
    ]
    assert f"--config.file={found[3]}" in entry["command"]
    folder = str(Path(found[3]).parent)
    assert folder in {place.partition(":")[0] for place in entry["tmpfs"]}
    # Rules and targets are named relative to the file that names them.
    assert inside[f"{folder}/rules"] == "./infra/prometheus/rules"
    assert inside[f"{folder}/targets"] == "./infra/prometheus/docker-targets"


def test_the_joined_file_has_each_job_once_and_those_of_docker() -> None:
    names = [job["job_name"] for job in joined()["scrape_configs"]]
    assert len(names) == len(set(names))
    native = {
        job["job_name"] for job in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    }
    assert set(names) - native == {"cadvisor", "project-worker-replicas"}


def test_every_replica_of_a_worker_is_found_by_its_services_name() -> None:
    (job,) = (job for job in joined()["scrape_configs"] if job["job_name"] == "project-worker-replicas")
    found = {(name, entry["port"]) for entry in job["dns_sd_configs"] for name in entry["names"]}
    told = {
        (name, int(entry["environment"][variable]))
        for name, variable in (
            ("project-worker", "WORKER_METRICS_PORT"),
            ("project-worker-pickle", "PICKLE_WORKER_METRICS_PORT"),
        )
        for entry in (DOCKER[name],)
    }
    assert found == told
    assert {entry["type"] for entry in job["dns_sd_configs"]} == {"A"}  # one target for each address
    assert all(DOCKER[name]["environment"]["WORKER_METRICS_HOST"] == "0.0.0.0" for name, _ in found)  # noqa: S104
    # The rules and dashboards know one job, and its programs by the names they have natively.
    assert job["relabel_configs"] == [
        {"target_label": "job", "replacement": "project-worker"},
        {"source_labels": ["__meta_dns_name"], "target_label": "program"},
    ]
    assert {name for name, _ in found} == set(PROGRAMS.values())


def test_alertmanager_is_told() -> None:
    assert joined()["alerting"]["alertmanagers"] == [
        {"file_sd_configs": [{"files": ["targets/alertmanager.json"]}]}
    ]
    assert TARGETS["alertmanager"] == [{"targets": ["alertmanager:9093"]}]
    assert "${ALERTMANAGER_CONFIG}:/etc/alertmanager/alertmanager.yml:ro" in DOCKER["alertmanager"]["volumes"]
    assert "--config.file=/etc/alertmanager/alertmanager.yml" in DOCKER["alertmanager"]["command"]
