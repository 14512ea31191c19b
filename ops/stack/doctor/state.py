"""Checks of what earlier runs have left: settings, data, processes, environments, and whose they are.

What belongs here: everything in the state folder.
"""

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from stack import environments, services
from stack.doctor.finding import Finding, Situation, ok, problem, warning
from stack.doctor.machine import existing
from stack.instance import Instance
from stack.servers import postgres
from stack.service import Service


def settings(situation: Situation) -> Finding:
    """Look whether the settings can be read, agree with the environment and belong to the data."""
    if "settings" in situation.broken:
        return situation.broken["settings"]
    path = situation.instance.env_file
    return ok(str(path) if path.exists() else "none yet: the first up makes them")


def supervisor(situation: Situation) -> Finding:
    """Look whether the stack is up, and for what a killed supervisor left."""
    if "supervisor" in situation.broken:
        return situation.broken["supervisor"]
    if situation.programs is not None:
        running = sum(state.is_running for state in situation.programs.values())
        return ok(f"the stack is up: {running} of {len(situation.programs)} programs run")
    stale = [
        path.name
        for path in (situation.instance.socket, situation.instance.run / "supervisord.pid")
        if path.exists()
    ]
    if stale:
        return warning(
            f"the stack is down; a killed supervisor left {' and '.join(stale)}",
            "nothing: the next ./stack up replaces them",
        )
    return ok("the stack is down")


def processes(situation: Situation) -> Finding:
    """Look for processes of this stack that nobody supervises."""
    if situation.programs is not None or "supervisor" in situation.broken or not situation.processes:
        return ok("none without a supervisor")
    names = ", ".join(f"{process.name()} (pid {process.pid})" for process in situation.processes)
    return warning(f"left behind by a killed supervisor: {names}", "./stack down ends them")


def folder(situation: Situation) -> Finding:
    """Look whether the state folder, or the place where it will be made, is ours to write."""
    state = situation.instance.state
    there = existing(state)
    for place in (there, *_subfolders(state)):
        if not place.is_dir():
            return problem(f"{place} is no folder", f"move it away: mv {place} {place}.old")
        if not os.access(place, os.W_OK | os.X_OK) or (place != there and not _is_mine(place)):
            return problem(
                f"cannot write to {place}: it belongs to {_holder(place)}",
                "run ./stack as that user, or set STACK_STATE to a folder of yours",
            )
    if os.geteuid() == 0 and there.stat().st_uid != 0:
        return warning(
            f"{there} belongs to {_holder(there)}, and root is at work",
            "run ./stack as that user: what root makes in it, that user cannot change",
        )
    return ok(str(state) if there == state else f"{state} will be made in {there}")


def owners(situation: Situation) -> Finding:
    """Look whether the data belongs to the account that the server will run as."""
    for service in services.SERVICES:
        for program in service.programs:
            data = situation.instance.data(program.name)
            uid = _uid_of(program.user)
            places = [
                *_entries(data),
                *([data] if os.geteuid() != 0 else []),
            ]  # root gives that folder away itself
            for place in places:
                if place.exists() and uid is not None and place.stat().st_uid != uid:
                    runs_as = pwd.getpwuid(uid).pw_name
                    return problem(
                        f"{place} belongs to {_holder(place)}, the server would run as {runs_as}",
                        "run ./stack as the user who made the data, or start over: ./stack down --volumes",
                    )
    return ok("belong to those who use them" if situation.instance.has_data else "there is no data yet")


def database(situation: Situation) -> Finding:
    """Look whether the database was made by a PostgreSQL that is installed."""
    major = postgres.made_by(situation.instance)
    if major is None:
        return ok("there is none yet")
    postgres.require_version(situation.instance)
    return ok(f"made by PostgreSQL {major}, which is here")


def python_environments(situation: Situation) -> Finding:
    """Look for environments that are half made, or made from something else."""
    instance = situation.instance
    # What installs itself in the background may be at it.
    at_work = [s.name for s in services.SERVICES if s.in_background and _runs(s, situation)]
    names = [service.venv for service in services.SERVICES if service.venv is not None]
    there = [name for name in names if instance.venv(name).exists() and name not in at_work]
    stale = [name for name in there if not environments.is_current(environments.of_service(name), instance)]
    if stale:
        return warning(
            f"half made or outdated: {', '.join(stale)}", "nothing: the next ./stack up makes them anew"
        )
    absent = [name for name in names if name not in (*there, *at_work)]
    return ok(f"the first up makes {', '.join(absent)}" if absent else ", ".join(there))


def _runs(service: Service, situation: Situation) -> bool:
    return situation.programs is not None and situation.programs[service.programs[-1].name].is_running


def _subfolders(state: Path) -> Iterable[Path]:
    return [
        place
        for name in ("data", "config", "logs", "cache", "run", "venvs")
        if (place := state / name).exists() or place.is_symlink()
    ]


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # not there, or closed: the folder's own owner says why
        return []


def _uid_of(user: str | None) -> int | None:
    if os.geteuid() != 0 or user is None:
        return os.geteuid()
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:  # comes with its package, which another check looks at
        return None


def _is_mine(place: Path) -> bool:
    return os.geteuid() in (0, place.stat().st_uid)


def _holder(place: Path) -> str:
    try:
        return place.owner()
    except KeyError:  # an account that has been removed
        return f"uid {place.stat().st_uid}"


def has_data(instance: Instance) -> bool:
    """Say whether a server has left data, even where we may not look."""
    try:
        return instance.has_data
    except OSError:
        return True
