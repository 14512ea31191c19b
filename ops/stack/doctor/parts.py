"""Checks of what the services need and whether they let us in: packages, accounts, ports, logins.

How it works: functions that make a check from an entry of the table of services, so that a new service is checked
without a word here.

What belongs here: what is checked for each service, package or port.
"""

import os
import shutil
import time
from collections.abc import Callable

from stack import folders, ports, services
from stack.doctor.finding import Finding, Situation, ok, problem, warning
from stack.health import UnhealthyError
from stack.instance import Instance
from stack.ports import Port
from stack.service import Binary, Package, Service
from stack.supervision import ProgramState

_FIRST_FREE_FOR_ALL = 1024


def package(package: Package) -> Callable[[Situation], Finding]:
    """Return the check that a package is there, and new enough."""

    def look(_: Situation) -> Finding:
        found = package.find()
        line = f"apt-get update && apt-get install -y --no-install-recommends {package.name}"
        if found is None and shutil.which("apt-get") is None:
            return problem("is not installed", f"install {package.name}")
        if found is None and os.geteuid() != 0:
            return problem("is not installed", f"sudo sh -c '{line}'")
        if found is None:
            return warning("is not installed", f"nothing: ./stack up installs it (or: {line})")
        version = package.version(found)
        oldest = ".".join(map(str, package.oldest))
        if version is None:
            return warning(f"its version is not known ({found})", f"make sure that it is {oldest} or newer")
        if tuple(map(int, version.split("."))) < package.oldest:
            return problem(
                f"{version} is too old ({found})",
                f"install {oldest} or newer: Debian 12, Ubuntu 24.04 and newer systems have it",
            )
        return ok(f"{version} ({found})")

    return look


def binary(binary: Binary) -> Callable[[Situation], Finding]:
    """Return the look for a program that the stack does without where it is not."""

    def look(_: Situation) -> Finding:
        found = binary.find()
        return (
            ok(str(found)) if found is not None else ok(f"not installed, and left out. To have it: {binary.how}")
        )

    return look


def accounts(_: Situation) -> Finding:
    """Look for the system accounts that servers run as when root starts them."""
    if os.geteuid() != 0:
        return ok("everything runs as you")
    users = {
        program.user
        for service in services.SERVICES
        if service.is_installed  # a package brings its account
        for program in service.programs
        if program.user is not None
    }
    for user in users:
        folders.account(user)
    return ok(", ".join(sorted(users)) or "come with the packages")


def port(port: Port, service: Service) -> Callable[[Situation], Finding]:
    """Return the check that a port of a service is free, or ours."""

    def look(situation: Situation) -> Finding:
        number = situation.instance.port(port.variable)
        if service.is_left_out:
            return ok(f"{number}, not needed: {service.name} is not installed")
        if number < _FIRST_FREE_FOR_ALL:
            return problem(
                f"{number} is reserved for root, and servers do not run as root",
                f"move it: {port.variable}={number + 10000} ./stack up",
            )
        if ports.listener(number) in {process.pid for process in situation.processes}:
            return ok(f"{number}, in use by this stack")
        ports.require_free(port, situation.instance.values)
        return ok(f"{number} is free")

    return look


def login(service: Service, ask: Callable[[Instance], None]) -> Callable[[Situation], Finding]:
    """Return the check that a running server lets us in with the instance's credentials.

    Args:
        service: The server.
        ask: Logs in; raises `UnhealthyError`.
    """

    def look(situation: Situation) -> Finding:
        if situation.programs is None:
            return ok("not tried: the stack is down")
        state = situation.programs[service.programs[-1].name]
        if state.was_stopped:
            return ok(f"not tried: it is stopped (./stack start {service.name})")
        try:
            ask(situation.instance)
        except UnhealthyError as error:
            if _is_starting(service, state, situation.instance):
                return warning("is still starting", "wait: ./stack up does, and shows what it waits for")
            fix = f"look at ./stack logs {service.name}, then: ./stack restart {service.name}"
            return problem(f"{state.state.lower()}, but: {error}", fix)
        return ok(f"logged in as {_user(service, situation.instance)}")

    return look


def _is_starting(service: Service, state: ProgramState, instance: Instance) -> bool:
    listens = all(ports.is_busy(instance.port(port.variable)) for port in service.ports)
    return not listens and time.time() - state.started < service.health_deadline


def _user(service: Service, instance: Instance) -> str:
    return instance.values.get(f"{service.name.upper()}_USER", "the default user")
