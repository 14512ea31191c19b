"""Grafana where it is installed, on loopback: everybody on this machine may look, a login may edit.

How it works: Grafana takes every option from its environment (`GF_SECTION_KEY`), so it needs no file of ours but
what `infra/grafana` has for every start mode: where the numbers come from, and the dashboards.

What belongs here: everything native about Grafana.
"""

import re
import shutil
from pathlib import Path
from threading import Event

from stack import folders
from stack.instance import Instance
from stack.servers import prometheus

USER = prometheus.USER
"""Its own package makes another account, a downloaded archive makes none: it shares that of the monitoring."""

_PACKAGE = Path("/usr/share/grafana")
"""Where the package of Grafana's own repository lies."""

_LINKED = {"5000": "API_PORT", "5555": "FLOWER_PORT", "5601": "KIBANA_PORT"}
"""The ports in the dashboards' links, and the settings that move them."""


def find() -> Path | None:
    """Return the installed `grafana`: that of its own package, or that on PATH; None when there is none.

    One without its defaults beside it is not taken: what the package puts on PATH is a script that calls it.
    """
    for path in (str(_PACKAGE / "bin"), None):  # None: PATH
        if found := shutil.which("grafana", path=path):
            program = Path(found).resolve()
            if (program.parent.parent / "conf" / "defaults.ini").is_file():
                return program
    return None


def prepare(instance: Instance, _: Event) -> None:
    """Make the data folder, and copy provisioning and dashboards to where its account can read them.

    The copies' links lead to this instance's ports.
    """
    source, target = instance.repository / "infra" / "grafana", instance.config("grafana")
    shutil.rmtree(target, ignore_errors=True)  # a dashboard that is no more must go there, too
    for folder in (instance.data("grafana"), target, _provisioning(instance), _dashboards(instance)):
        folders.make_owned(folder, USER)
    for path in (*source.glob("provisioning/*/*.yml"), *source.glob("dashboards/*.json")):
        copy = target / path.relative_to(source)
        folders.make_owned(copy.parent, USER)
        folders.write_owned(copy, _linked(path.read_text(), instance), USER)


def command(instance: Instance) -> list[str]:
    """Return the server's command line."""
    program = find() or Path("grafana")
    home = program.parents[1] if len(program.parents) > 1 else instance.state
    return [str(program), "server", f"--homepath={home}"]


def environment(instance: Instance) -> dict[str, str]:
    """Return its options: where it listens, where its data lies, who may do what, whom it asks nothing."""
    data = instance.data("grafana")
    return {
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": instance["GRAFANA_PORT"],
        "GF_PATHS_DATA": str(data),
        "GF_PATHS_LOGS": str(data / "log"),
        "GF_PATHS_PLUGINS": str(data / "plugins"),
        "GF_PATHS_PROVISIONING": str(_provisioning(instance)),
        "GF_LOG_MODE": "console",  # into the stack's log
        "GF_SECURITY_ADMIN_USER": instance["GRAFANA_USER"],
        "GF_SECURITY_ADMIN_PASSWORD": instance["GRAFANA_PASSWORD"],
        "GF_AUTH_ANONYMOUS_ENABLED": "true",  # on loopback: whoever is on this machine may look
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "GF_USERS_DEFAULT_THEME": "system",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(_dashboards(instance) / "journey.json"),
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",  # it would fetch plugins that no dashboard of ours uses
        "PROMETHEUS_URL": f"http://127.0.0.1:{instance['PROMETHEUS_PORT']}",
        "KIBANA_URL": f"http://127.0.0.1:{instance['KIBANA_PORT']}",
        "DASHBOARDS_FOLDER": str(_dashboards(instance)),
    }


def _linked(text: str, instance: Instance) -> str:
    ports = "|".join(_LINKED)
    return re.sub(rf"(?<=http://127\.0\.0\.1:)({ports})\b", lambda port: instance[_LINKED[port[0]]], text)


def _provisioning(instance: Instance) -> Path:
    return instance.config("grafana") / "provisioning"


def _dashboards(instance: Instance) -> Path:
    return instance.config("grafana") / "dashboards"
