"""The command line: what `./stack` understands, and how it speaks.

Exit codes: 0 done; 1 a service or a test failed; 2 the command line is wrong; 3 the machine is not ready (a
package, port, folder or Python is missing or taken); 130 interrupted.

What belongs here: commands as thin as they can be, and the printing of errors. What they do is in other modules.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from stack import dashboards, dead_letters, lifecycle, locks, mode, services
from stack.bench import session as benchmark
from stack.docker import memory
from stack.doctor import checks
from stack.doctor import docker as docker_checks
from stack.errors import MachineNotReadyError, StackError, UsageError
from stack.instance import Instance
from stack.progress import Board
from stack.records import Wanted
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
    with_docker: Annotated[
        bool | None,
        typer.Option(
            "--docker/--native", help="in containers, or with Debian's servers; else as last, or native"
        ),
    ] = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option("--profile", envvar="STACK_PROFILES", help=_PROFILES_HELP),
    ] = None,
    build: Annotated[bool, typer.Option("--build", help="with Docker: make our images anew first")] = False,
) -> None:
    """Start everything (or profiles, or the named services, and what they need), and prove that it works."""
    root, state = _folders()
    if with_docker or (with_docker is None and memory.read(state) is not None):
        mode.docker(root, state, os.environ, profiles or [], errors).up(names or [], console, build=build)
        return
    if build:
        raise UsageError("natively there are no images", hint="./stack up --docker --build")
    mode.native(root, state, errors).up(names or [], profiles or [], console)


@app.command()
def down(
    volumes: Annotated[bool, typer.Option("--volumes", help="delete all data and settings, too")] = False,
) -> None:
    """Stop everything; no process is left."""
    _stack().down(console, volumes=volumes)


@app.command("status")
def show_status() -> None:
    """Show every service's state and health. Exit code 1 when one that should run is not well."""
    if not _stack().status(console):
        raise typer.Exit(1)


@app.command()
def stop(names: Names) -> None:
    """Stop services; the others go on."""
    _stack().stop(names, console)


@app.command()
def start(names: Names) -> None:
    """Start services of a stack that is up."""
    _stack().start(names, console)


@app.command()
def restart(names: AnyNames = None) -> None:
    """Stop and start services again; without names, all that are not stopped on purpose."""
    _stack().restart(names or [], console)


@app.command()
def scale(
    number: Annotated[str, typer.Argument(metavar="SERVICE=N", help="project-worker=3")],
) -> None:
    """With Docker: run N containers of a service."""
    name, _, count = number.partition("=")
    if not (count.isascii() and count.isdecimal()):
        raise UsageError(f"{number} is no SERVICE=N", hint="./stack scale project-worker=3")
    _stack().scale(name, int(count), console)


@app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Stop everything and delete all that ./stack has made: data, settings, environments, logs."""
    root, state = _folders()
    instance = Instance(repository=root, state=state, values={})  # broken settings are a reason to reset
    if not yes:
        _confirm_reset(instance)
    if memory.path(state).exists():
        try:
            _stack().down(console, volumes=True)
        except MachineNotReadyError as error:
            errors.print(f"{error.message}: containers and volumes stay as they are", soft_wrap=True)
    with Board((), console) as board:
        deleted = lifecycle.reset(instance, board)
    for path in deleted:
        console.print(f"deleted {path}", highlight=False, soft_wrap=True)
    console.print("As after a fresh clone. To start: ./stack up")


@app.command()
def doctor(
    with_docker: Annotated[bool, typer.Option("--docker", help="look at what up --docker needs")] = False,
) -> None:
    """Look whether `up` would work here, and say what to do about what is in its way. Changes nothing."""
    root, state = _folders()
    if with_docker or memory.read(state) is not None:
        exit_code = docker_checks.show(root, state, os.environ, console)
    else:
        exit_code = checks.show(checks.examine(root, state, os.environ), console)
    if exit_code:
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
    wanted = None if request is None and task is None else Wanted(request=request, task=task)
    _stack().logs(names or [], wanted, lines=lines, follow=follow, console=console)


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
    dead_letters.show_all(_stack().instance, console)


@letters.command("show")
def show_dead_letter(letter_id: LetterId) -> None:
    """Show all that is known of one."""
    dead_letters.show(_stack().instance, letter_id, console)


@letters.command("replay")
def replay_dead_letter(letter_id: LetterId) -> None:
    """Send its task again, under the same id."""
    dead_letters.replay(_stack().instance, letter_id, console)


@letters.command("delete")
def delete_dead_letter(
    letter_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="as in ./stack dead-letters")] = None,
    everything: Annotated[bool, typer.Option("--all", help="instead of an ID")] = False,
) -> None:
    """Delete one, or all with --all. Their tasks stay FAILURE."""
    if everything == (letter_id is not None):
        raise UsageError("which dead letters?", hint="./stack dead-letters delete ID, or --all")
    if letter_id is None:
        dead_letters.delete_all(_stack().instance, console)
    else:
        dead_letters.delete(_stack().instance, letter_id, console)


@app.command("dashboards")
def write_dashboards(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="where pictures go; else .stack/dashboards")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="draw pictures from the running Prometheus")] = False,
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="how far back pictures show")] = 30,
) -> None:
    """Write Grafana's dashboards from their Python; with --png, draw them as they are now, without Grafana."""
    instance = _stack().instance if png else _instance()
    if png:
        dashboards.draw(instance, folder or instance.state / "dashboards", minutes=minutes, console=console)
    elif folder is not None:
        raise UsageError("a folder is for pictures", hint=f"./stack dashboards --png {folder}")
    else:
        dashboards.write(instance, console)


@app.command()
def urls() -> None:
    """Show what there is to open, and where the credentials are."""
    _stack().urls(console)


@app.command()
def test(
    context: typer.Context,
    suites: Annotated[
        list[str] | None, typer.Argument(metavar="[SUITE...]", help="all when none is named")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="the tests' longer variants, too")] = False,
    soak: Annotated[bool, typer.Option("--soak", help="as --all, and the longest at full length")] = False,
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


def _stack() -> mode.Stack:
    return mode.current(*_folders(), errors)


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
