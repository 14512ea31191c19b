"""RabbitMQ from a project folder: its own node, its own epmd, every listener on loopback.

How it works: `/usr/lib/rabbitmq/bin/rabbitmq-server` (Debian's wrapper in /usr/sbin insists on /var) takes all of
its places from environment variables. epmd, Erlang's port mapper, is a supervised program of its own on a port of
its own: started by the broker it would outlive it, and the system's epmd belongs to the system's broker.
With RUNNING_UNDER_SYSTEMD the start script *becomes* the broker (it would stay as its parent otherwise), so
signals and the supervisor's death reach the broker itself.

What belongs here: everything native about RabbitMQ.
"""

import re
import shutil
from pathlib import Path
from threading import Event

from stack import folders, health
from stack.instance import Instance

USER = "rabbitmq"
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_INITIALISED = "initialised"
"""File that says: this data folder once held a working broker. Users and virtual hosts are made at the first
start only, so a first start that was interrupted begins again with an empty folder."""


def find() -> Path | None:
    """Return the installed server, or None."""
    return _SERVER if _SERVER.exists() else None


def find_epmd() -> Path | None:
    """Return the installed Erlang port mapper, or None."""
    program = shutil.which("epmd")
    return Path(program) if program else None


def version(server: Path) -> str | None:
    """Return the version of a server by the folder that it lies in: the server itself takes 2 s to say it."""
    found = re.search(r"rabbitmq_server-(\d+(?:\.\d+)*)", str(server.resolve()))
    return found[1] if found else None


def erlang_version(epmd: Path) -> str | None:
    """Return the major version of the Erlang that a port mapper belongs to."""
    for place in epmd.resolve().parents:
        releases = [int(entry.name) for entry in place.glob("releases/*") if entry.name.isdecimal()]
        if releases:
            return str(max(releases))
    return None


def prepare(instance: Instance, _: Event) -> None:
    """Make the data folder and write the configuration."""
    home, config = instance.data("rabbitmq"), instance.config("rabbitmq")
    if home.exists() and not (home / _INITIALISED).exists():
        shutil.rmtree(home)
    folders.make_owned(home, USER)
    folders.make_owned(config, USER)
    lines = [
        "# --- this instance (written by ./stack)",
        f"default_user = {instance['RABBITMQ_USER']}",
        f"default_pass = {instance['RABBITMQ_PASSWORD']}",
        f"default_vhost = {instance['RABBITMQ_VHOST']}",
        "management.tcp.ip = 127.0.0.1",
        f"management.tcp.port = {instance['RABBITMQ_MANAGEMENT_PORT']}",
        "prometheus.tcp.ip = 127.0.0.1",
        f"prometheus.tcp.port = {instance['RABBITMQ_PROMETHEUS_PORT']}",
    ]
    text = instance.template("rabbitmq", "rabbitmq.conf") + "\n" + "\n".join(lines) + "\n"
    folders.write_owned(config / "rabbitmq.conf", text, USER)
    folders.write_owned(config / "enabled_plugins", instance.template("rabbitmq", "enabled_plugins"), USER)


def command(_: Instance) -> list[str]:
    """Return the broker's command line."""
    return [str(_SERVER)]


def epmd_command(instance: Instance) -> list[str]:
    """Return the port mapper's command line."""
    return ["epmd", "-address", "127.0.0.1", "-port", instance["EPMD_PORT"]]


def environment(instance: Instance) -> dict[str, str]:
    """Return the broker's environment: every place and port that it would otherwise take from the system."""
    home, config = instance.data("rabbitmq"), instance.config("rabbitmq")
    return {
        "HOME": str(home),  # holds the Erlang cookie
        "RUNNING_UNDER_SYSTEMD": "true",
        "RABBITMQ_NODENAME": "app@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": instance["RABBITMQ_HOST"],
        "RABBITMQ_NODE_PORT": instance["RABBITMQ_PORT"],
        "RABBITMQ_DIST_PORT": instance["RABBITMQ_DIST_PORT"],
        "ERL_EPMD_PORT": instance["EPMD_PORT"],
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_BASE": str(home),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_MNESIA_DIR": str(home / "mnesia" / "app"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(config / "rabbitmq"),  # the server adds .conf
        "RABBITMQ_CONFIG_FILES": str(config / "none"),  # these three do not exist: nothing is read from /etc
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(config / "none.config"),
        "RABBITMQ_CONF_ENV_FILE": str(config / "none.env"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(config / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(home / "feature_flags"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} "
        "+sbwt none +sbwtdcpu none +sbwtdio none",  # no busy waiting: an idle broker costs no CPU
    }


def check(instance: Instance) -> None:
    """Ask the management API and log in; raises `UnhealthyError`. A success marks the data as initialised."""
    health.rabbitmq(instance)
    mark = instance.data("rabbitmq") / _INITIALISED
    if not mark.exists():
        folders.write_owned(mark, "", USER)
