"""A test session: environments, checks, suites, and the report.

How it works: the servers start in the background while the checks run. Then two lanes of suites run side by side,
as both mostly wait: those on the session's servers, and the others, most of which start stacks of their own. A
step's output is shown when it fails; a single suite, or one with arguments for pytest, prints as it goes. Tests
that passed only when they were run again are named. The last line is `N passed, N failed`: every pytest test, and
one for each check.

What belongs here: the order of a session, and its report.
"""

import os
import shutil
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stack import environments, folders, packages, services, settings
from stack.environments import Environment
from stack.instance import Instance
from stack.processes import tail
from stack.testing import plan, servers
from stack.testing.steps import Outcome, Step, run

_NOT_FOR_TESTS = ("PYTHONPATH", "VIRTUAL_ENV", "STACK_ROOT", "STACK_STATE", "STACK_UV", "STACK_BASE_PYTHON")
"""Variables that are ours, not the tests'."""

_SHOWN = 200
"""Lines of a failed step's output that are shown; all of it stays in its log file."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a session takes.

    Attributes:
        variables: tell the tests, unless they are set already.
        longest: in s, for one step; a hanging test must not hang the session.
        examples: Hypothesis' profile: "ci" draws the same ones each time, for what was green must stay so until
            something changes; "default" draws others each time, to find what nobody has thought of.
    """

    variables: Mapping[str, str]
    longest: float
    examples: str


SHORT = Length(variables={}, longest=1200, examples="ci")
FULL = Length(variables={"FAULT_SCALE": "1"}, longest=3600, examples="default")
SOAK = Length(variables={"FAULT_SCALE": "1", "SOAK": "1"}, longest=4 * 3600, examples="default")


def run_all(
    home: Instance,
    names: Sequence[str],
    arguments: Sequence[str],
    *,
    length: Length,
    environ: Mapping[str, str],
    console: Console,
) -> bool:
    """Run the named checks and suites, all of them when none is named.

    Args:
        home: The instance in whose state folder environments and logs are kept.
        names: Checks and suites.
        arguments: For pytest.
        length: How long the tests' variants are that run.
        environ: The environment of the command.
        console: Where the report goes.

    Returns:
        Whether all passed.

    Raises:
        UsageError: A name is unknown.
        StackError: An environment or a server could not be made.
    """
    checks, suites = plan.chosen(names)
    folders.make(home)
    clean = environment_of_tests(environ)
    for name, value in length.variables.items():
        clean.setdefault(name, value)
    clean["STACK_CACHE"] = str(home.state / "cache")  # what is dear to make: container images
    outcomes = []
    if missing := packages.missing(package for suite in suites for package in suite.packages):
        console.print(f"installing {', '.join(package.name for package in missing)} ...", highlight=False)
        packages.install(missing, home, threading.Event())
    with ExitStack() as stack:
        started = stack.enter_context(servers.started(home)) if any(s.needs_servers for s in suites) else None
        _make_environments(home, checks, suites, console)
        for step in _check_steps(home, checks, clean):
            outcomes.append(_run(step, console))
        is_live = len(suites) == 1 or bool(arguments)

        def run_suite(suite: plan.Suite, stop: threading.Event) -> Outcome:
            addresses = started.environment(suite) if started and suite.needs_servers else {}
            step = _suite_step(home, suite, arguments, {**clean, **addresses}, is_live, length)
            return _run(step, console, stop)

        outcomes.extend(side_by_side([suites] if is_live else lanes(suites), run_suite))
    return _summarise(outcomes, console)


def lanes(suites: Sequence[plan.Suite]) -> list[list[plan.Suite]]:
    """Part suites into what runs side by side."""
    return [[s for s in suites if s.needs_servers], [s for s in suites if not s.needs_servers]]


def side_by_side(
    lanes: Sequence[Sequence[plan.Suite]], run_suite: Callable[[plan.Suite, threading.Event], Outcome]
) -> list[Outcome]:
    """Run each lane's suites one after the other, and the lanes at once; return what they came to, lane by lane.

    What ends one lane early, or this thread (Ctrl-C), ends the others.
    """
    stop = threading.Event()

    def run_lane(suites: Sequence[plan.Suite]) -> list[Outcome]:
        try:
            return [run_suite(suite, stop) for suite in suites if not stop.is_set()]
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
        try:
            return [outcome for lane in list(pool.map(run_lane, lanes)) for outcome in lane]
        except BaseException:
            stop.set()
            raise


def environment_of_tests(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what tests find in their environment: no live stack's settings, and a uv, on their PATH."""
    ours = {*_NOT_FOR_TESTS, *settings.SECRETS, *settings.defaults(services.PORTS)}
    clean = {key: value for key, value in environ.items() if key not in ours}
    path = clean.get("PATH", os.defpath)
    if (uv := environ.get("STACK_UV")) and not shutil.which("uv", path=path):
        # `./stack` has installed its own, in a folder with a `python`: so it comes last.
        clean["PATH"] = f"{path}{os.pathsep}{Path(uv).parent}"
    return clean


def _make_environments(
    home: Instance, checks: Sequence[str], suites: Sequence[plan.Suite], console: Console
) -> None:
    wanted = {suite.environment.name: suite.environment for suite in (plan.SUITES if checks else suites)}
    for environment in wanted.values():
        if not environments.is_current(environment, home):
            console.print(f"installing the environment {environment.name} ...", highlight=False)
            environments.make(environment, home, threading.Event())


def _check_steps(home: Instance, checks: Sequence[str], environ: Mapping[str, str]) -> Iterator[Step]:
    cache, repository = home.state / "cache", home.repository
    if "lint" in checks:
        ruff = _program(home, plan.OPS, "ruff")
        for name, words in (("lint", ["check"]), ("format", ["format", "--check"])):
            command = [ruff, *words, "--cache-dir", str(cache / "ruff")]
            yield Step(name=name, command=command, folder=repository, environ=environ, log=_log(home, name))
        if shellcheck := shutil.which(
            "shellcheck"
        ):  # not in the index of Python packages we lock: where installed
            command = [shellcheck, "stack", ".ci/run"]
            yield Step(name="shell", command=command, folder=repository, environ=environ, log=_log(home, "shell"))
    for check, section, program, words in (
        ("types", "mypy", "mypy", ["--cache-dir"]),
        ("imports", "importlinter", "lint-imports", ["--no-logo", "--cache-dir"]),
    ):
        for suite in plan.SUITES if check in checks else ():
            folder = repository / suite.folder
            if section in _configured_tools(folder):
                name = f"{check} {suite.name}"
                yield Step(
                    name=name,
                    command=[_program(home, suite.environment, program), *words, str(cache / check / suite.name)],
                    folder=folder,
                    # The import root, which is on no path of its own: mypy finds it by its configuration.
                    environ={**environ, "PYTHONPATH": str(folder / suite.source)}
                    if check == "imports"
                    else environ,
                    log=_log(home, name),
                )


def _suite_step(
    home: Instance,
    suite: plan.Suite,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    is_live: bool,
    length: Length,
) -> Step:
    report = _log(home, suite.name).with_suffix(".xml")
    report.unlink(missing_ok=True)
    cache = home.state / "cache" / "pytest" / suite.name
    options = [f"--junitxml={report}", "-o", f"cache_dir={cache}", f"--hypothesis-profile={length.examples}"]
    return Step(
        name=suite.name,
        command=[_program(home, suite.environment, "pytest"), *options, *arguments],
        folder=home.repository / suite.folder,
        environ=environ,
        log=_log(home, suite.name),
        report=report,
        is_live=is_live,
        longest=length.longest,
        again=() if arguments else ("--last-failed",),
    )


def _program(home: Instance, environment: Environment, name: str) -> str:
    return str(environments.python(environment, home).with_name(name))


def _log(home: Instance, step: str) -> Path:
    return home.log(f"test-{step.replace(' ', '-')}")


def _configured_tools(folder: Path) -> set[str]:
    project = folder / "pyproject.toml"
    return set(tomllib.loads(project.read_text()).get("tool", {})) if project.exists() else set()


def _run(step: Step, console: Console, stop: threading.Event | None = None) -> Outcome:
    outcome = run(step, stop)
    mark = "[red]failed[/red]" if outcome.failed else "[green]ok[/green]    "
    console.print(f"{mark}  {step.name:<24} {outcome.seconds:6.1f} s  {escape(outcome.note)}", highlight=False)
    if (outcome.failed or outcome.unsteady) and not step.is_live:
        for line in tail(step.log, _SHOWN):
            console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
    return outcome


def _summarise(outcomes: Sequence[Outcome], console: Console) -> bool:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for title in ("PASSED", "FAILED", "SKIPPED", "SECONDS"):
        table.add_column(title, justify="right")
    for outcome in outcomes:
        counts = (outcome.passed, outcome.failed, outcome.skipped)
        table.add_row(outcome.name, *(str(count) for count in counts), f"{outcome.seconds:.1f}")
    console.print()
    console.print(table)
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    if unsteady := [name for outcome in outcomes for name in outcome.unsteady]:
        console.print(
            f"unsteady, passed only when run again: {', '.join(unsteady)}", highlight=False, soft_wrap=True
        )
    # Alone on the last line, as it is: CI reads it.
    console.print(f"{passed} passed, {failed} failed", highlight=False)
    return failed == 0
