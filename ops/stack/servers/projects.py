"""The projects' own programs: the API, the worker, and what restarts them when their code changes.

How it works: the commands are those of the projects' READMEs, in the same folders, with the instance's settings
as their environment. `reload` is a small program beside them (`stack/reload.py`), so that uvicorn and celery are
plain processes under the supervisor, without a reloader as their parent.

What belongs here: command lines of our own programs. Their dependencies are in `environments.py`.
"""

import os
import subprocess
import sys
from pathlib import Path
from threading import Event

from stack import health, processes
from stack.instance import Instance

QUEUE = "project-worker"
"""The worker's queue: a queue carries its service's name."""

PICKLE_QUEUE = "project-worker-pickle"
"""That of the tasks whose arguments come as signed pickle."""

DEAD_LETTERS = "dead-letters.inbox"
"""What the broker gives up; the reaper's."""

ROOTS = {"project-api": Path("project-api/project-api"), "project-worker": Path("project-worker/project-worker")}
"""Each project's import root, in the repository."""

LIBRARIES = tuple(Path(f"libs/{name}/src") for name in ("async-celery", "project-contracts", "project-database"))
"""Import roots of the libraries that both projects use."""

_OTHERS = ("GRAFANA_", "PGADMIN_", "FLOWER_", "ALERT_")
"""Settings of the servers around them, with their secrets: no business of the projects."""

_DRAIN = 10  # s that a request or task gets to finish; then the API closes, and the broker redelivers the task


def migrate(instance: Instance, cancelled: Event) -> None:
    """Bring the database's schema up to the code's, before the API serves it.

    Raises:
        StackError: A migration failed; holds its last lines.
        GivenUpError: The user gave up.
    """
    python = instance.venv("project-api") / "bin" / "python"
    configuration = instance.repository / "project-api" / "alembic.ini"
    processes.run(
        [str(python), "-m", "alembic", "-c", str(configuration), "upgrade", "head"],
        log=instance.log("migrations"),
        cancelled=cancelled,
        what="bringing the database's schema up to date",
        environ={**os.environ, **environment(instance)},
    )


def api_command(instance: Instance) -> list[str]:
    """Return the API's command line."""
    program = instance.venv("project-api") / "bin" / "uvicorn"
    address = ["--host", instance["API_HOST"], "--port", instance["API_PORT"]]
    return [str(program), "api:app", *address, "--workers", "1", "--timeout-graceful-shutdown", str(_DRAIN)]


def worker_command(instance: Instance) -> list[str]:
    """Return the worker's command line."""
    concurrency = f"--concurrency={instance['WORKER_CONCURRENCY']}"
    return _celery(instance, "tasks:app", "-Q", QUEUE, "-n", "worker@%h", concurrency)


def pickle_worker_command(instance: Instance) -> list[str]:
    """Return the command line of the worker of signed pickle: the only process that unpickles anything."""
    return _celery(instance, "pickle_tasks:app", "-Q", PICKLE_QUEUE, "-n", "pickle@%h", "--concurrency=1")


def reaper_command(instance: Instance) -> list[str]:
    """Return the command line of what ends the tasks and workflows that no worker will."""
    program = instance.venv("project-worker") / "bin" / "python"
    return [str(program), "-m", "async_celery.worker.reaper", "-A", "tasks:app"]


def _celery(instance: Instance, app: str, *options: str) -> list[str]:
    program = instance.venv("project-worker") / "bin" / "celery"
    # One worker of a kind: gossip and mingle only cost start-up time and messages.
    tail = ["--without-gossip", "--without-mingle"]
    return [str(program), "-A", app, "worker", "--pool", "prefork", *options, *tail]


def reload_command(_: Instance) -> list[str]:
    """Return the command line of the program that restarts the projects."""
    return [sys.executable, "-m", "stack.reload"]


def environment(instance: Instance) -> dict[str, str]:
    """Return the settings, as the projects read them, without those of others."""
    own = {name: value for name, value in instance.values.items() if not name.startswith(_OTHERS)}
    return {**own, "PYTHONUNBUFFERED": "1"}


def api_environment(instance: Instance) -> dict[str, str]:
    """Return the settings, and the commit that runs as `app_build_info` tells it: unknown without git."""
    named = os.environ.get("API_REVISION")
    return {**environment(instance), **({} if named else _revision(instance.repository))}


def _revision(repository: Path) -> dict[str, str]:
    command = ["git", "-C", str(repository), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"API_REVISION": done.stdout.strip()}


def reload_environment(instance: Instance) -> dict[str, str]:
    """Return what the reloading program needs to find the instance."""
    return {
        "STACK_ROOT": str(instance.repository),
        "STACK_STATE": str(instance.state),
        "PYTHONPATH": str(instance.repository / "ops"),
    }


def api_directory(instance: Instance) -> Path:
    """Return the API's import root."""
    return instance.repository / ROOTS["project-api"]


def worker_directory(instance: Instance) -> Path:
    """Return the worker's import root."""
    return instance.repository / ROOTS["project-worker"]


def check_worker(instance: Instance) -> None:
    """Ask the broker whether each of the worker's queues has a consumer; raises `UnhealthyError`."""
    for queue in (QUEUE, PICKLE_QUEUE, DEAD_LETTERS):
        health.consumed(instance, queue)
