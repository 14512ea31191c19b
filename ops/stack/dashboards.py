"""The dashboards on the command line: their JSON written anew from their Python, or drawn as pictures.

How it works: `ops/dashboards` runs as a program in an environment of its own, which is made at the first use:
what Grafana's builders and drawing need is not installed for whoever only starts the stack.

What belongs here: running that program. What the dashboards show is in `ops/dashboards/`.
"""

import threading
from pathlib import Path

from rich.console import Console

from stack import environments, folders, processes
from stack.environments import Environment
from stack.errors import StackError
from stack.instance import Instance
from stack.supervision import Supervisor

ENVIRONMENT = Environment(
    name="dashboards", locks=(Path("ops/dashboards/requirements.lock"),), paths=(Path("ops"),)
)
JSON_FOLDER = Path("infra/grafana/dashboards")


def write(instance: Instance, console: Console) -> None:
    """Write the JSON files that Grafana reads, from the dashboards' Python.

    Raises:
        StackError: The environment could not be made, or a dashboard is wrong.
    """
    folder = instance.repository / JSON_FOLDER
    _run(instance, console, "write", str(folder), what="writing the dashboards")
    _show(folder, "*.json", console)


def draw(instance: Instance, folder: Path, *, minutes: int, console: Console) -> None:
    """Draw every dashboard as a PNG from the running Prometheus.

    Args:
        instance: Whose Prometheus is asked.
        folder: Where the pictures go; made when it is missing.
        minutes: How far back they show.
        console: Where progress and results go.

    Raises:
        StackError: The stack is down, Prometheus does not answer, or the environment could not be made.
    """
    # Asked first: what else may answer at that port is not to be drawn.
    if not Supervisor(instance).is_up:
        raise StackError("the stack is down", hint="to start it: ./stack up")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"cannot make {folder}: {error}", hint="name a folder that you may write to") from error
    url = f"http://127.0.0.1:{instance['PROMETHEUS_PORT']}"
    source = instance.repository / JSON_FOLDER
    words = ("draw", str(source), url, str(folder), str(minutes * 60))
    _run(instance, console, *words, what="drawing the dashboards")
    _show(folder, "*.png", console)


def _run(instance: Instance, console: Console, *words: str, what: str) -> None:
    folders.make(instance)
    cancelled = threading.Event()
    if not environments.is_current(ENVIRONMENT, instance):
        console.print("making the environment of the dashboards (once) ...")
        environments.make(ENVIRONMENT, instance, cancelled)
    python = str(environments.python(ENVIRONMENT, instance))
    log = instance.log("dashboards")
    processes.run([python, "-m", "dashboards", *words], log=log, cancelled=cancelled, what=what)


def _show(folder: Path, pattern: str, console: Console) -> None:
    for path in sorted(folder.glob(pattern)):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
