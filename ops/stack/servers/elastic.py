"""Elasticsearch and Kibana where they are installed, on loopback.

How it works: their configuration is `infra/elasticsearch` and `infra/kibana` for every start mode, plus this
instance's addresses and folders. Both refuse to run as root. They are taken from Elastic's archives only: what
its Debian packages install reads `/etc/default`, which overrides where we say that the configuration lies.

What belongs here: everything native about these two.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event

from stack import folders
from stack.errors import StackError
from stack.instance import Instance
from stack.servers import prometheus

USER = prometheus.USER
"""Downloaded archives make no account: they share that of the monitoring."""


def find_elasticsearch() -> Path | None:
    """Return the `elasticsearch` on PATH; None when there is none."""
    return _find("elasticsearch")


def find_kibana() -> Path | None:
    """Return the `kibana` on PATH; None when there is none."""
    return _find("kibana")


def prepare_elasticsearch(instance: Instance, _: Event) -> None:
    """Make the data folder and write the configuration."""
    configuration = instance.config("elasticsearch")
    for folder in (instance.data("elasticsearch"), configuration, configuration / "jvm.options.d"):
        folders.make_owned(folder, USER)
    lines = [
        "# --- this instance (written by ./stack)",
        f"http.port: {instance['ELASTICSEARCH_PORT']}",
        f"transport.port: {instance['ELASTICSEARCH_TRANSPORT_PORT']}",
        f'path.data: "{instance.data("elasticsearch")}"',
        f'path.logs: "{instance.data("elasticsearch") / "logs"}"',
    ]
    text = instance.template("elasticsearch", "elasticsearch.yml") + "\n" + "\n".join(lines) + "\n"
    folders.write_owned(configuration / "elasticsearch.yml", text, USER)
    for name in ("jvm.options", "log4j2.properties"):
        folders.write_owned(configuration / name, instance.template("elasticsearch", name), USER)


def elasticsearch_command(_: Instance) -> list[str]:
    """Return Elasticsearch's command line."""
    return [str(find_elasticsearch() or "elasticsearch")]


def elasticsearch_environment(instance: Instance) -> dict[str, str]:
    """Return where its configuration lies."""
    return {"ES_PATH_CONF": str(instance.config("elasticsearch"))}


def prepare_kibana(instance: Instance, _: Event) -> None:
    """Make the data folder and write the configuration; tell Elasticsearch, which is there by now, of our fields.

    Raises:
        StackError: Elasticsearch refused that.
    """
    set_up_elasticsearch(instance)
    for folder in (instance.data("kibana"), instance.config("kibana")):
        folders.make_owned(folder, USER)
    lines = [
        "# --- this instance (written by ./stack)",
        f"server.port: {instance['KIBANA_PORT']}",
        f"elasticsearch.hosts: ['http://127.0.0.1:{instance['ELASTICSEARCH_PORT']}']",
        f'path.data: "{instance.data("kibana")}"',
    ]
    text = instance.template("kibana", "kibana.yml") + "\n" + "\n".join(lines) + "\n"
    folders.write_owned(instance.config("kibana") / "kibana.yml", text, USER)


def set_up_elasticsearch(instance: Instance) -> None:
    """Put the template of log lines, as the one-shot `elasticsearch-setup` of compose.yaml does.

    Raises:
        StackError: Elasticsearch refused it.
    """
    done = subprocess.run(
        [sys.executable, str(instance.repository / "infra" / "elasticsearch" / "set_up.py"), "elasticsearch"],
        env={"ELASTICSEARCH_URL": f"http://127.0.0.1:{instance['ELASTICSEARCH_PORT']}", "SET_UP_DEADLINE": "30"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StackError(
            f"Elasticsearch has not taken the template of log lines: {done.stderr.strip()}",
            hint="look at its log: ./stack logs elasticsearch",
        )


def kibana_command(instance: Instance) -> list[str]:
    """Return Kibana's command line."""
    return [str(find_kibana() or "kibana"), "--config", str(instance.config("kibana") / "kibana.yml")]


def kibana_environment(instance: Instance) -> dict[str, str]:
    """Return where its configuration lies."""
    return {"KBN_PATH_CONF": str(instance.config("kibana"))}


def _find(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found).resolve() if found else None
