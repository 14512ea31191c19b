"""PostgreSQL from a project folder: initdb once, then the server in the foreground, TCP on loopback only.

How it works: the data folder is made beside its final place and renamed, so that an interrupted initdb leaves
nothing half made. The configuration is `infra/postgres/postgresql.conf` plus this instance's lines.

What belongs here: everything native about PostgreSQL.
"""

import shutil
import subprocess
from pathlib import Path
from threading import Event

from stack import folders, health
from stack.errors import MachineNotReadyError, StackError
from stack.instance import Instance

USER = "postgres"
_DEBIAN = Path("/usr/lib/postgresql")  # one folder per major version; its programs are not on PATH


def find() -> Path | None:
    """Return the newest installed `postgres`, or None."""
    versions = sorted(_debian_versions(), reverse=True)
    if versions:
        return _DEBIAN / str(versions[0]) / "bin" / "postgres"
    on_path = shutil.which("postgres")
    return Path(on_path).resolve() if on_path else None


def prepare(instance: Instance, _: Event) -> None:
    """Make the database cluster when there is none, and write the configuration."""
    folders.make_owned(instance.data("postgres"), USER)
    folders.make_owned(instance.config("postgres"), USER)
    if not _cluster(instance).exists():
        _initialise(instance)
    folders.write_owned(instance.config("postgres") / "postgresql.conf", _configuration(instance), USER)


def command(instance: Instance) -> list[str]:
    """Return the server's command line."""
    conf = instance.config("postgres") / "postgresql.conf"
    return [str(_program(instance, "postgres")), "-D", str(_cluster(instance)), "-c", f"config_file={conf}"]


def check(instance: Instance) -> None:
    """Log in and run a query; raises `UnhealthyError`."""
    health.postgres(instance, _program(instance, "psql"))


def execute(instance: Instance, statement: str) -> None:
    """Run a statement in the project's database, as its owner.

    Raises:
        StackError: The database refuses it, or does not answer.
    """
    try:
        health.query(instance, _program(instance, "psql"), statement)
    except health.UnhealthyError as error:
        raise StackError("PostgreSQL refuses a statement", hint=f"{statement.strip()}\n{error}") from error


def made_by(instance: Instance) -> str | None:
    """Return the major version that made the data; None when there is none."""
    try:
        return (_cluster(instance) / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return None


def require_version(instance: Instance) -> None:
    """Make sure that the major version that made the data is installed.

    Raises:
        MachineNotReadyError: It is not.
    """
    _program(instance, "postgres")


def _cluster(instance: Instance) -> Path:
    return instance.data("postgres") / "cluster"


def _debian_versions() -> list[int]:
    if not _DEBIAN.is_dir():
        return []
    return [int(place.name) for place in _DEBIAN.iterdir() if (place / "bin" / "postgres").exists()]


def _program(instance: Instance, name: str) -> Path:
    """Return a program of the major version that the data was made with; the newest one for new data."""
    newest = find()
    if newest is None:
        raise MachineNotReadyError(
            "PostgreSQL is not installed", hint="install the package postgresql, then ./stack up"
        )
    major = made_by(instance)
    if major is None:
        return newest.with_name(name)
    installed = [str(version) for version in _debian_versions()]
    if major in installed:
        return _DEBIAN / major / "bin" / name
    if installed:  # without Debian's folders the version is not known here: the server itself will check it
        raise MachineNotReadyError(
            f"the data in {_cluster(instance)} was made by PostgreSQL {major}, here is {', '.join(installed)}",
            hint=f"install the package postgresql-{major}, or start over without data: ./stack down --volumes",
        )
    return newest.with_name(name)


def _initialise(instance: Instance) -> None:
    fresh = instance.data("postgres") / "cluster.new"
    shutil.rmtree(fresh, ignore_errors=True)
    password = instance.config("postgres") / "password"
    folders.write_owned(password, instance["POSTGRES_PASSWORD"] + "\n", USER)
    prefix = folders.run_as(USER, instance.state, death_signal="TERM")
    try:
        initdb = [str(_program(instance, "initdb")), "--pgdata", str(fresh), "--pwfile", str(password)]
        initdb += ["--username", instance["POSTGRES_USER"], "--auth=scram-sha-256"]
        initdb += ["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]
        _step([*prefix, *initdb], instance)
        if instance["POSTGRES_DB"] != "postgres":
            single = [str(_program(instance, "postgres")), "--single", "-D", str(fresh), "postgres"]
            name = instance["POSTGRES_DB"].replace('"', '""')
            _step([*prefix, *single], instance, text=f'CREATE DATABASE "{name}"\n')
    finally:
        password.unlink()
    fresh.rename(_cluster(instance))


def _step(command: list[str], instance: Instance, text: str = "") -> None:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, cwd=instance.data("postgres").parent
    )
    # `postgres --single` ends well even when a statement failed.
    if done.returncode or "ERROR:" in done.stderr:
        lines = (done.stdout + done.stderr).splitlines()[-10:]
        raise StackError("PostgreSQL's data folder could not be made", hint="\n".join(lines))


def _configuration(instance: Instance) -> str:
    lines = [
        "# --- this instance (written by ./stack)",
        f"listen_addresses = '{instance['POSTGRES_HOST']}'",
        f"port = {instance['POSTGRES_PORT']}",
        "unix_socket_directories = ''  # TCP only: a socket's path would be too long in deep folders",
    ]
    libraries = subprocess.run(
        [_program(instance, "pg_config"), "--pkglibdir"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not (Path(libraries) / "pg_stat_statements.so").exists():
        lines.append("shared_preload_libraries = ''  # this PostgreSQL comes without pg_stat_statements")
    return instance.template("postgres", "postgresql.conf") + "\n" + "\n".join(lines) + "\n"
