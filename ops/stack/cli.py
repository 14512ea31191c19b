"""The command line: what `./stack` understands, and how it speaks.

Exit codes: 0 done; 1 a service or a test failed; 2 the command line is wrong; 3 the machine is not ready (a
package, port, folder or Python is missing or taken); 130 interrupted.

What belongs here: commands as thin as they can be, and the printing of errors. What they do is in other modules.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from stack import (
    dashboards,
    dead_letters,
    environments,
    folders,
    lifecycle,
    locks,
    logs,
    selftest,
    services,
    status,
)
from stack.bench import session as benchmark
from stack.doctor import checks
from stack.errors import StackError, UsageError
from stack.instance import Instance
from stack.progress import Board
from stack.records import Wanted
from stack.service import Service
from stack.testing import session

app = typer.Typer(
    help="Starts, watches, tests and stops the whole system on this machine.",
    epilog="Everything it makes lies in .stack/. Ports are moved by variables: API_PORT=5001 ./stack up. "
    "All of them: STACK_PORT_OFFSET=100 ./stack up. "
    "Exit codes: 1 something failed, 2 wrong usage, 3 the machine is not ready.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

_PROFILES_HELP = f"{', '.join(services.PROFILES)}; else {', '.join(services.BY_DEFAULT)}"

Names = Annotated[list[str], typer.Argument(metavar="SERVICE...", help="as in ./stack status")]
AnyNames = Annotated[list[str] | None, typer.Argument(metavar="[SERVICE...]", help="all when none is named")]


@app.command()
def up(
    names: AnyNames = None,
    _native: Annotated[
        bool, typer.Option("--native", help="with Debian's own servers: the only way today")
    ] = True,
    profiles: Annotated[
        list[str] | None,
        typer.Option("--profile", envvar="STACK_PROFILES", help=_PROFILES_HELP),
    ] = None,
) -> None:
    """Start everything (or profiles, or the named services, and what they need), and prove that it works."""
    instance = _instance()
    chosen = services.by_name(names) if names else _of_profiles(profiles or [])
    wanted = services.with_needs(chosen)
    # Those that this command starts in the background, and whether their environments must be made first.
    coming = {
        service.name: not environments.is_current(environments.of_service(service.name), instance)
        for service in wanted
        if service.in_background and not lifecycle.is_running(instance, [service])
    }
    was_running = lifecycle.is_running(instance, wanted)
    with Board((service.name for service in wanted), console) as board:
        try:
            instance = lifecycle.up(instance, chosen, os.environ, board)
        except KeyboardInterrupt:
            errors.print("Interrupted: what this command had started is stopped. To start it: ./stack up")
            raise
    done = "Up already; checked" if was_running else "Up"
    console.print(f"[bold]{done}[/bold] after {board.elapsed:.1f} s.\n", highlight=False)
    status.show_links(instance, wanted, console)
    if services.PROJECT_API in wanted and services.PROJECT_WORKER in wanted:
        took = selftest.run(instance)
        console.print(f"Self-test: 6 x 7 through API, RabbitMQ, worker and Redis = 42, in {took * 1000:.0f} ms.")
    if services.PROMETHEUS in wanted:
        count, took = selftest.watch(instance, wanted)
        console.print(f"Monitoring: Prometheus scrapes {count} of {count} targets, after {took:.1f} s.")
    for name, is_new in coming.items():
        what = "is being installed (once) and started" if is_new else "starts"
        console.print(f"{name} {what} in the background: ./stack status says when it is ready.")


@app.command()
def down(
    volumes: Annotated[bool, typer.Option("--volumes", help="delete all data and settings, too")] = False,
) -> None:
    """Stop everything; no process is left."""
    instance = _instance()
    with Board((), console) as board:
        ran = lifecycle.down(instance, board)
        console.print(
            f"Down after {board.elapsed:.1f} s." if ran else "The stack was down already.", highlight=False
        )
    if volumes:
        for path in folders.delete_data(instance):
            console.print(f"deleted {path}", highlight=False)


@app.command("status")
def show_status() -> None:
    """Show every service's state and health. Exit code 1 when one that should run is not well."""
    if not status.show(_instance(), console):
        raise typer.Exit(1)


@app.command()
def stop(names: Names) -> None:
    """Stop services; the others go on."""
    chosen = services.by_name(names)
    with Board((service.name for service in chosen), console) as board:
        lifecycle.stop(_instance(), chosen, board)


@app.command()
def start(names: Names) -> None:
    """Start services of a stack that is up."""
    chosen = services.by_name(names)
    with Board((service.name for service in chosen), console) as board:
        lifecycle.start(_instance(), chosen, board)


@app.command()
def restart(names: AnyNames = None) -> None:
    """Stop and start services again; without names, all that are not stopped on purpose."""
    instance = _instance()
    chosen = services.by_name(names) if names else lifecycle.not_stopped(instance)
    with Board((service.name for service in chosen), console) as board:
        try:
            lifecycle.restart(instance, chosen, board)
        except KeyboardInterrupt:
            errors.print("Interrupted: some services may be stopped. To start them: ./stack up")
            raise
        console.print(f"Restarted after {board.elapsed:.1f} s.", highlight=False)


@app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Stop everything and delete all that ./stack has made: data, settings, environments, logs."""
    root, state = _folders()
    instance = Instance(repository=root, state=state, values={})  # broken settings are a reason to reset
    if not yes:
        _confirm_reset(instance)
    with Board((), console) as board:
        deleted = lifecycle.reset(instance, board)
    for path in deleted:
        console.print(f"deleted {path}", highlight=False, soft_wrap=True)
    console.print("As after a fresh clone. To start: ./stack up")


@app.command()
def doctor() -> None:
    """Look whether `up` would work here, and say what to do about what is in its way. Changes nothing."""
    found = checks.examine(*_folders(), os.environ)
    if exit_code := checks.show(found, console):
        raise typer.Exit(exit_code)


@app.command("logs")
def show_logs(
    names: AnyNames = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until Ctrl-C")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="how many of each service")] = 20,
    request: Annotated[
        str | None, typer.Option("--request", metavar="ID", help="all lines of one request, by time")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="ID", help="all lines of one task, by time")
    ] = None,
) -> None:
    """Show what the services print; with an id, what all of them printed about it."""
    chosen = services.by_name(names) if names else list(services.SERVICES)
    if request is not None or task is not None:
        logs.find(_instance(), chosen, Wanted(request=request, task=task), follow=follow, console=console)
        return
    logs.show(_instance(), chosen, lines=lines, follow=follow, console=console)


letters = typer.Typer(help="Show, replay or delete what could not be worked (default: show all).")
app.add_typer(letters, name="dead-letters")
LetterId = Annotated[str, typer.Argument(metavar="ID", help="as in ./stack dead-letters")]


@letters.callback(invoke_without_command=True)
def dead_letters_by_default(context: typer.Context) -> None:
    """Show, replay or delete what could not be worked; without a command, show all."""
    if context.invoked_subcommand is None:
        list_dead_letters()


@letters.command("list")
def list_dead_letters() -> None:
    """Show a line for each."""
    dead_letters.show_all(_instance(), console)


@letters.command("show")
def show_dead_letter(letter_id: LetterId) -> None:
    """Show all that is known of one."""
    dead_letters.show(_instance(), letter_id, console)


@letters.command("replay")
def replay_dead_letter(letter_id: LetterId) -> None:
    """Send its task again, under the same id."""
    dead_letters.replay(_instance(), letter_id, console)


@letters.command("delete")
def delete_dead_letter(
    letter_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="as in ./stack dead-letters")] = None,
    everything: Annotated[bool, typer.Option("--all", help="instead of an ID")] = False,
) -> None:
    """Delete one, or all with --all. Their tasks stay FAILURE."""
    if everything == (letter_id is not None):
        raise UsageError("which dead letters?", hint="./stack dead-letters delete ID, or --all")
    if letter_id is None:
        dead_letters.delete_all(_instance(), console)
    else:
        dead_letters.delete(_instance(), letter_id, console)


@app.command("dashboards")
def write_dashboards(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="where pictures go; else .stack/dashboards")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="draw pictures from the running Prometheus")] = False,
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="how far back pictures show")] = 30,
) -> None:
    """Write Grafana's dashboards from their Python; with --png, draw them as they are now, without Grafana."""
    instance = _instance()
    if png:
        dashboards.draw(instance, folder or instance.state / "dashboards", minutes=minutes, console=console)
    elif folder is not None:
        raise UsageError("a folder is for pictures", hint=f"./stack dashboards --png {folder}")
    else:
        dashboards.write(instance, console)


@app.command()
def urls() -> None:
    """Show what there is to open, and where the credentials are."""
    instance = _instance()
    running = lifecycle.not_stopped(instance)
    status.show_links(instance, running or services.of_profiles([]), console)


@app.command()
def test(
    context: typer.Context,
    suites: Annotated[
        list[str] | None, typer.Argument(metavar="[SUITE...]", help="all when none is named")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="the tests' longer variants, too")] = False,
    soak: Annotated[bool, typer.Option("--soak", help="as --all, and all faults mixed for half an hour")] = False,
) -> None:
    """Lint, types, import rules, tests, on servers of their own. For pytest: ./stack test SUITE -- -k NAME."""
    length = session.SOAK if soak else session.FULL if everything else session.SHORT
    passed = session.run_all(
        _instance(), suites or [], context.obj, length=length, environ=os.environ, console=console
    )
    if not passed:
        raise typer.Exit(1)


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[ROW...]", help="all when none is named")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="long enough to publish: writes benchmarks/RESULTS.md")
    ] = False,
) -> None:
    """Measure our library beside every peer, on servers of its own; quick without --full (.stack/bench/)."""
    if not benchmark.run(_instance(), names or [], is_full=full, console=console):
        raise typer.Exit(1)


@app.command()
def lock(
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="to the newest versions; else known ones stay")
    ] = False,
) -> None:
    """Write every requirements.lock and requirements.txt anew from the requirements.in files."""
    for path in locks.write_all(_instance(), upgrade=upgrade):
        console.print(f"wrote {path}", highlight=False)


def _of_profiles(names: Sequence[str]) -> list[Service]:
    chosen = services.of_profiles(names)
    if os.environ.get("STACK_RELOAD") == "0":
        return [service for service in chosen if service is not services.RELOAD]
    return chosen


def _instance() -> Instance:
    return Instance.at(*_folders(), services.PORTS)


def _folders() -> tuple[Path, Path]:
    root = Path(os.environ["STACK_ROOT"])
    return root, Path(os.environ.get("STACK_STATE", root / ".stack"))


def _confirm_reset(instance: Instance) -> None:
    question = f"Delete all data, settings, environments and logs in {instance.state}?"
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to answer on", hint="to do it: ./stack reset --yes")
    if not typer.confirm(question):
        console.print("Nothing was deleted.")
        raise typer.Exit(1)


def main() -> None:
    """Run a command; print what goes wrong as a message, and exit with its code."""
    # A shell starts background commands with SIGINT ignored; TERM and HUP must clean up as Ctrl-C does.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    try:
        app(words[:at], prog_name="./stack", obj=words[at + 1 :])  # what follows a `--` is for pytest
    except StackError as error:
        errors.print(f"[bold red]error:[/bold red] {_plain(error.message)}", highlight=False, soft_wrap=True)
        for line in error.hint.splitlines():
            errors.print(f"  {_plain(line)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
