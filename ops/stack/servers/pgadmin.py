"""pgAdmin from PyPI, in an environment of its own, on loopback, with a login and our database in its list.

How it works: its environment is large, so `up` does not wait for it: the supervised program is
`stack/pgadmin.py`, which installs what is missing, sets it up and then becomes pgAdmin.

What belongs here: everything native about pgAdmin, but for that order. Its options are in
`infra/pgadmin/config_local.py`.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from stack import folders
from stack.instance import Instance

_SERVER = "project"
_PASSWORDS = "/pgpass"


def command(_: Instance) -> list[str]:
    """Return the command line of the program that installs pgAdmin and becomes it."""
    return [sys.executable, "-m", "stack.pgadmin"]


def environment(instance: Instance) -> dict[str, str]:
    """Return what that program needs to find the instance and to install."""
    return {
        "STACK_ROOT": str(instance.repository),
        "STACK_STATE": str(instance.state),
        "STACK_UV": os.environ.get("STACK_UV", "uv"),
        "STACK_BASE_PYTHON": os.environ.get("STACK_BASE_PYTHON", sys.executable),
        "PYTHONPATH": str(instance.repository / "ops"),
    }


def configure(instance: Instance) -> None:
    """Write its options, the list of servers and the password file."""
    folders.make_owned(instance.data("pgadmin"), None)
    folders.make_owned(instance.config("pgadmin"), None)
    options = instance.repository / "infra" / "pgadmin" / "config_local.py"
    shutil.copyfile(options, _package(instance) / "config_local.py")
    storage = instance.data("pgadmin") / "storage"
    own = storage / instance["PGADMIN_EMAIL"].replace("@", "_")  # how pgAdmin names a user's folder
    for folder in (storage, own):
        folders.make_owned(folder, None)
    words = (instance[f"POSTGRES_{name}"] for name in ("HOST", "PORT", "DB", "USER", "PASSWORD"))
    line = ":".join(word.replace("\\", r"\\").replace(":", r"\:") for word in words)
    folders.write_owned(own / _PASSWORDS.removeprefix("/"), line + "\n", None)
    folders.write_owned(_servers(instance), json.dumps(_listed(instance), indent=2) + "\n", None)


def steps(instance: Instance) -> list[list[str]]:
    """Return the commands that make its database with the login, or bring it up to date, and list our server."""
    setup = [str(instance.venv("pgadmin") / "bin" / "python"), str(_package(instance) / "setup.py")]
    return [
        [*setup, "setup-db"],
        [*setup, "load-servers", str(_servers(instance)), "--user", instance["PGADMIN_EMAIL"], "--replace"],
    ]


def server_command(instance: Instance) -> list[str]:
    """Return pgAdmin's own command line: one process, as its connections belong to it, and threads."""
    program = instance.venv("pgadmin") / "bin" / "gunicorn"
    address = f"127.0.0.1:{instance['PGADMIN_PORT']}"
    workers = ["--workers", "1", "--threads", "8", "--no-control-socket"]
    return [str(program), "--bind", address, *workers, "--chdir", str(_package(instance)), "pgAdmin4:app"]


def server_environment(instance: Instance) -> dict[str, str]:
    """Return where its data lies, and the login that it makes when it has none."""
    return {
        "PGADMIN_DATA": str(instance.data("pgadmin")),
        "PGADMIN_SETUP_EMAIL": instance["PGADMIN_EMAIL"],
        "PGADMIN_SETUP_PASSWORD": instance["PGADMIN_PASSWORD"],
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _listed(instance: Instance) -> dict[str, object]:
    server = {
        "Name": _SERVER,
        "Group": "Servers",
        "Host": instance["POSTGRES_HOST"],
        "Port": instance.port("POSTGRES_PORT"),
        "MaintenanceDB": instance["POSTGRES_DB"],
        "Username": instance["POSTGRES_USER"],
        "ConnectionParameters": {"sslmode": "prefer", "connect_timeout": 10, "passfile": _PASSWORDS},
    }
    return {"Servers": {"1": server}}


def _servers(instance: Instance) -> Path:
    return instance.config("pgadmin") / "servers.json"


def _package(instance: Instance) -> Path:
    (package,) = instance.venv("pgadmin").glob("lib/python3.*/site-packages/pgadmin4")
    return package
