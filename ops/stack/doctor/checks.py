"""The table of checks, and running them. A new check is one entry here.

What belongs here: entries, and how they are run and shown. What a check looks at is in its module.
"""

import http.client
import shutil
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

from stack import health, processes, services
from stack import settings as settings_file
from stack.doctor import machine, parts, state
from stack.doctor.finding import Check, Finding, Level, Situation, ok, problem, warning
from stack.errors import StackError
from stack.instance import Instance
from stack.servers import postgres
from stack.supervision import Supervisor
from stack.testing import plan

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}

_LOGINS = (
    (services.POSTGRES, postgres.check),
    (services.REDIS, health.redis),
    (services.RABBITMQ, health.rabbitmq),  # not the service's own check: that one notes its success in the data
)


def _browser(_: Situation) -> Finding:
    found = plan.CHROMIUM.find()
    return ok(str(found)) if found else warning("is not installed", "only for ./stack test: install chromium")


def _docker(_: Situation) -> Finding:
    found = shutil.which("docker") or shutil.which("docker-compose")
    return ok(
        f"{found}; what up --docker needs: ./stack doctor --docker" if found else "not installed, nor needed"
    )


CHECKS = (
    Check(name="Python", look=machine.python),
    Check(name="uv", look=machine.uv),
    Check(name="setpriv", look=machine.setpriv),
    *(
        Check(name=package.name, look=parts.package(package))
        for package in dict.fromkeys(package for service in services.SERVICES for package in service.packages)
    ),
    *(
        Check(name=service.name, look=parts.binary(service.binary))
        for service in services.SERVICES
        if service.binary is not None
    ),
    Check(name="accounts", look=parts.accounts),
    Check(name="memory", look=machine.memory),
    Check(name="disk", look=machine.disk),
    Check(name="open files", look=machine.open_files),
    Check(name="processes", look=machine.user_processes),
    Check(name="clock", look=machine.clock),
    Check(name="state folder", look=state.folder),
    Check(name="settings", look=state.settings),
    Check(name="supervisor", look=state.supervisor),
    Check(name="left behind", look=state.processes),
    Check(name="environments", look=state.python_environments),
    Check(name="data's owners", look=state.owners),
    Check(name="database", look=state.database),
    *(
        Check(name=port.variable, look=parts.port(port, service))
        for service in services.SERVICES
        for port in service.ports
    ),
    *(
        Check(name=f"{service.name} login", look=parts.login(service, ask), exit_code=1)
        for service, ask in _LOGINS
    ),
    Check(name="Chromium", look=_browser),
    Check(name="Docker", look=_docker),
)


def examine(repository: Path, folder: Path, environ: Mapping[str, str]) -> Situation:
    """Gather what the checks look at. What cannot be read is a finding, and defaults stand in for it.

    Args:
        repository: The clone.
        folder: The state folder, there or not.
        environ: What `up` would be given.
    """
    broken = dict[str, Finding]()
    try:
        instance = Instance.at(repository, folder, services.PORTS)
    except StackError as error:
        broken["settings"] = problem(error.message, error.hint)
        instance = Instance(repository=repository, state=folder, values=settings_file.defaults(services.PORTS))
    supervisor = Supervisor(instance)
    try:
        programs = supervisor.states() if supervisor.is_up else None
    except StackError as error:
        programs, broken["supervisor"] = None, problem(error.message, error.hint)
    except (OSError, xmlrpc.client.Error, http.client.HTTPException) as error:
        programs = None
        broken["supervisor"] = problem(
            f"does not answer: {error!r}", "./stack down, or kill the process supervisord"
        )
    if "settings" not in broken:
        try:
            values = settings_file.settle(
                settings_file.read(instance.env_file),
                environ,
                services.PORTS,
                has_data=state.has_data(instance),
                is_up=programs is not None,
            )
            instance = Instance(repository=repository, state=folder, values=values)
        except StackError as error:
            broken["settings"] = problem(error.message, error.hint)
    return Situation(
        instance=instance,
        programs=programs,
        processes=processes.left_behind(folder),
        broken=broken,
    )


def run(checks: Iterable[Check], situation: Situation) -> Iterator[tuple[Check, Finding]]:
    """Run checks one after the other; whatever one raises is its finding."""
    for check in checks:
        try:
            finding = check.look(situation)
        except StackError as error:
            finding = problem(error.message, error.hint)
        except Exception as error:  # a machine in trouble has surprises: the other checks go on
            finding = warning(
                f"could not be looked at: {error!r}", "look at it yourself; ./stack up may still work"
            )
        yield check, finding


def show(situation: Situation, console: Console) -> int:
    """Run every check and print its line, with the fix under what is not well.

    Returns:
        The command's exit code: 0 when `up` would work.
    """
    exit_code = problems = 0
    for check, finding in run(CHECKS, situation):
        level = (f"{finding.level.value:<8}", _STYLES[finding.level])
        # In one line: what programs say of themselves may have several.
        console.print(Text.assemble(level, f" {check.name:<25} {' '.join(finding.text.split())}"), soft_wrap=True)
        for line in finding.fix.splitlines():
            console.print(Text(f"{'':<34} -> {line}"), soft_wrap=True)
        if finding.level is Level.PROBLEM:
            problems += 1
            exit_code = max(exit_code, check.exit_code)
    if problems:
        console.print(f"\n{problems} to correct, then: ./stack up", highlight=False)
    elif situation.programs is not None:
        console.print("\nThe stack is up, and nothing is wrong with this machine.", highlight=False)
    else:
        console.print("\nThis machine is ready: ./stack up", highlight=False)
    return exit_code
