"""Prometheus and Alertmanager from a project folder, on loopback.

How it works: the configuration is `infra/prometheus` and `infra/alertmanager` as they are; the addresses of what
is scraped are files beside it, one per job, from the ports of this instance.

What belongs here: everything native about these two.
"""

import json
import shutil
from pathlib import Path
from threading import Event
from typing import Any

from stack import folders
from stack.instance import Instance
from stack.servers import receivers

USER = "prometheus"
"""The account that Debian's package makes; the exporters run as it, too."""

JOBS = {
    "prometheus": ("PROMETHEUS_PORT",),
    "alertmanager": ("ALERTMANAGER_PORT",),
    "rabbitmq": ("RABBITMQ_PROMETHEUS_PORT",),
    "postgres": ("POSTGRES_EXPORTER_PORT",),
    "redis": ("REDIS_EXPORTER_PORT",),
    "node": ("NODE_EXPORTER_PORT",),
    "process": ("PROCESS_EXPORTER_PORT",),
    "project-api": ("API_PORT",),
    "project-worker": ("WORKER_METRICS_PORT", "PICKLE_WORKER_METRICS_PORT"),
    "flower": ("FLOWER_PORT",),
}
"""The settings with the ports of each file in `targets/`."""

PROGRAMS = {"WORKER_METRICS_PORT": "project-worker", "PICKLE_WORKER_METRICS_PORT": "project-worker-pickle"}
"""Whose port it is, where a job has several programs: the label `program` of all that is scraped there."""

_RETENTION = "15d"


def find() -> Path | None:
    """Return the installed `prometheus`, or None."""
    return _on_path("prometheus")


def find_alertmanager() -> Path | None:
    """Return the installed Alertmanager, or None."""
    return _on_path("prometheus-alertmanager") or _on_path("alertmanager")


def prepare(instance: Instance, _: Event) -> None:
    """Make the data folder, and write configuration, rules and targets."""
    configuration = instance.config("prometheus")
    for folder in (
        instance.data("prometheus"),
        configuration,
        configuration / "rules",
        configuration / "targets",
    ):
        folders.make_owned(folder, USER)
    source = instance.repository / "infra" / "prometheus"
    for path in (source / "prometheus.yml", *(source / "rules").glob("*.yml")):
        folders.write_owned(configuration / path.relative_to(source), path.read_text(), USER)
    for job, variables in JOBS.items():
        targets = [_target(instance, variable) for variable in variables]
        folders.write_owned(configuration / "targets" / f"{job}.json", json.dumps(targets) + "\n", USER)


def _target(instance: Instance, variable: str) -> dict[str, Any]:
    target: dict[str, Any] = {"targets": [f"127.0.0.1:{instance.port(variable)}"]}
    if variable in PROGRAMS:
        target["labels"] = {"program": PROGRAMS[variable]}
    return target


def command(instance: Instance) -> list[str]:
    """Return Prometheus' command line."""
    return [
        str(find() or "prometheus"),
        f"--config.file={instance.config('prometheus') / 'prometheus.yml'}",
        f"--storage.tsdb.path={instance.data('prometheus')}",
        f"--storage.tsdb.retention.time={_RETENTION}",
        f"--web.listen-address=127.0.0.1:{instance.port('PROMETHEUS_PORT')}",
        "--enable-feature=exemplar-storage",
    ]


def prepare_alertmanager(instance: Instance, _: Event) -> None:
    """Make the data folder and write the configuration."""
    folders.make_owned(instance.data("alertmanager"), USER)
    folders.make_owned(instance.config("alertmanager"), USER)
    text = receivers.add(instance.template("alertmanager", "alertmanager.yml"), instance.values)
    folders.write_owned(instance.config("alertmanager") / "alertmanager.yml", text, USER)


def alertmanager_command(instance: Instance) -> list[str]:
    """Return Alertmanager's command line."""
    return [
        str(find_alertmanager() or "alertmanager"),
        f"--config.file={instance.config('alertmanager') / 'alertmanager.yml'}",
        f"--storage.path={instance.data('alertmanager')}",
        f"--web.listen-address=127.0.0.1:{instance.port('ALERTMANAGER_PORT')}",
        "--cluster.listen-address=",  # one of its kind: no gossip, no port for it
    ]


def _on_path(name: str) -> Path | None:
    program = shutil.which(name)
    return Path(program) if program else None
