"""What the user sees of a system: the table of services, the links, where the credentials are.

What belongs here: reading and showing. Nothing here changes anything.
"""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from stack import environments, services
from stack.health import UnhealthyError
from stack.instance import Instance
from stack.service import Service
from stack.supervision import ProgramState, Supervisor


def show(instance: Instance, console: Console) -> bool:
    """Print a line per service.

    Returns:
        Whether nothing is wrong: what should run is healthy. A stack that is down, or a service that was stopped
        on purpose, is not wrong.
    """
    supervisor = Supervisor(instance)
    states = supervisor.states() if supervisor.is_up else {}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("SERVICE", "STATE", "PID", "UPTIME", "HEALTH", "PORTS"):
        table.add_column(title, overflow="fold")
    everything_works, left_out = True, list[str]()
    for service in services.SERVICES:
        state = states.get(service.programs[-1].name)
        if (state is None or state.was_stopped) and service.binary is not None and service.is_left_out:
            table.add_row(service.name, "not installed", "-", "-", "-", "-")
            left_out.append(f"{service.name} is not installed, and left out. To have it: {service.binary.how}")
            continue
        health = _health(service, instance) if state is not None and state.is_running else "-"
        coming = _coming(service, instance, state) if state is not None and health not in ("ok", "-") else None
        if state is not None and not state.was_stopped and health != "ok" and coming is None:
            everything_works = False
        shown = _process(state) if coming is None else (coming, *_process(state)[1:])
        table.add_row(
            service.name, *shown, _coloured(health if coming is None else "-"), _ports(service, instance)
        )
    console.print(table)
    for line in left_out:
        console.print(line, soft_wrap=True, highlight=False)
    if not states:
        console.print("The stack is down. To start it: ./stack up")
    return everything_works


def show_links(instance: Instance, chosen: Sequence[Service], console: Console) -> None:
    """Print what there is to open, and where its credentials are."""
    rows = [(link.title, link.url, link.login) for service in chosen for link in service.links]
    rows += [
        (service.description, f"127.0.0.1:{{{service.ports[0].variable}}}", "")
        for service in chosen
        if service.ports and not service.links
    ]
    texts = [[text.format_map(instance.values) for text in row] for row in rows]
    # Plain lines: a table would cut addresses to fit a narrow terminal.
    titles, addresses = (max((len(row[column]) for row in texts), default=0) for column in (0, 1))
    for title, address, login in texts:
        line = f"{title:<{titles}}  {address:<{addresses}}  {login}".rstrip()
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"Passwords and all settings: {instance.env_file}", soft_wrap=True, highlight=False)


def _coming(service: Service, instance: Instance, state: ProgramState) -> str | None:
    """Return what a service in the background does before it is ready; None when it should be ready by now."""
    if not service.in_background:
        return None
    environment = environments.of_service(service.name)
    if not environments.is_current(environment, instance):
        return "installing"
    begin = max(state.started, environments.made(environment, instance))
    return "starting" if time.time() - begin < service.health_deadline else None


def _process(state: ProgramState | None) -> tuple[str, str, str]:
    if state is None:
        return "down", "-", "-"
    if not state.is_running:
        return state.state.lower(), "-", "-"
    return "running", str(state.pid), _duration(time.time() - state.started)


def _health(service: Service, instance: Instance) -> str:
    try:
        service.health(instance)
    except UnhealthyError as error:
        return str(error)
    return "ok"


def _coloured(health: str) -> str:
    escaped = health.replace("[", r"\[")
    return {"ok": "[green]ok[/green]", "-": "-"}.get(health, f"[red]{escaped}[/red]")


def _ports(service: Service, instance: Instance) -> str:
    return " ".join(instance[port.variable] for port in service.ports) or "-"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
