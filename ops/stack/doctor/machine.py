"""Checks of the machine itself: Python, uv, memory, disk, limits, clock.

What belongs here: what holds whatever services there are.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from stack.doctor.finding import Finding, Situation, ok, problem, warning
from stack.instance import Instance

_OLDEST_PYTHON = (3, 11)
_MEGABYTE = 1024 * 1024
_MEMORY, _MEMORY_AT_LEAST = 1536, 700  # MB; everything idle takes 1000, and `--profile core` 600
_DISK, _DISK_AT_LEAST = 2048, 500  # MB; the environments take 1200, and RabbitMQ refuses messages below 200
_FILES_AT_LEAST, _PROCESSES_AT_LEAST = 1024, 200  # supervisord's own minima (minfds, minprocs): else it ends
_CLOCK_TOLERANCE = 60  # s
_DAY = 24 * 3600  # s


def python(_: Situation) -> Finding:
    """Look at the version of the Python that runs the tool and makes the environments."""
    base = Path(os.environ.get("STACK_BASE_PYTHON", sys.executable))
    text = f"{sys.version.split()[0]} ({base})"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return problem(text, "install Python 3.11 or newer, or set STACK_PYTHON=/path/to/python3")
    if not os.access(base, os.X_OK):
        return problem(f"{base} cannot be run", "set STACK_PYTHON=/path/to/python3")
    return ok(text)


def uv(_: Situation) -> Finding:
    """Look whether the installer of the environments runs."""
    program = os.environ.get("STACK_UV", "uv")
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return problem(f"{program} does not run: {error}", "install it (pip install uv): ./stack does so, too")
    return ok(done.stdout.strip())


def setpriv(_: Situation) -> Finding:
    """Look for the program that ties every process to its supervisor."""
    found = shutil.which("setpriv")
    return ok(found) if found else problem("there is no setpriv", "install the package util-linux")


def memory(situation: Situation) -> Finding:
    """Look at the free memory, of the machine and of the container around us."""
    free = min(psutil.virtual_memory().available, _free_in_container()) // _MEGABYTE
    text = f"{free} MB are free"
    fix = f"end other programs, or give the machine more: at least {_MEMORY} MB should be free"
    if situation.programs is not None:  # the servers have theirs
        return ok(text) if free > _MEMORY_AT_LEAST else warning(text, fix)
    if free < _MEMORY_AT_LEAST:
        return problem(text, fix)
    return ok(text) if free >= _MEMORY else warning(text, fix)


def _free_in_container() -> float:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:  # no container, or an old kernel's
        return float("inf")
    cache = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return float("inf") if limit == "max" else int(limit) - used + cache


def disk(situation: Situation) -> Finding:
    """Look at the free space where the state folder is, or will be."""
    place = existing(situation.instance.state)
    free = shutil.disk_usage(place).free // _MEGABYTE
    text = f"{free} MB are free in {place}"
    fix = f"free some: at least {_DISK} MB; or put the data elsewhere: STACK_STATE=/other/folder ./stack up"
    if free < _DISK_AT_LEAST:
        return problem(text, fix)
    return ok(text) if free >= _DISK else warning(text, fix)


def open_files(_: Situation) -> Finding:
    """Look at how many files a process may have open."""
    return _limit(resource.RLIMIT_NOFILE, "open files", "-n", _FILES_AT_LEAST)


def user_processes(_: Situation) -> Finding:
    """Look at how many processes this user may have."""
    return _limit(resource.RLIMIT_NPROC, "processes", "-u", _PROCESSES_AT_LEAST)


def _limit(kind: int, what: str, option: str, at_least: int) -> Finding:
    soft, hard = resource.getrlimit(kind)
    infinite = resource.RLIM_INFINITY
    text = f"{'unlimited' if soft == infinite else soft} {what}"
    # The supervisor raises a low soft limit itself; the hard one, only root can raise.
    if hard != infinite and hard < at_least and os.geteuid() != 0:
        fix = f"raise the hard limit to {at_least} or more (as root: ulimit -H{option[1:]} {at_least}, "
        return problem(f"at most {hard} {what}", fix + "or /etc/security/limits.conf)")
    return ok(text)


def clock(situation: Situation) -> Finding:
    """Look whether the clock is behind the files that it dated, and whether it steps back."""
    before = time.time()
    for _ in range(1000):
        now = time.time()
        if now < before:
            return warning("the clock steps back", "let one service set it: timedatectl set-ntp true")
        before = now
    newest, path = max(_dates(situation.instance), default=(0.0, Path()))
    ahead = newest - time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if ahead < _CLOCK_TOLERANCE:
        return ok(text)
    finding = problem if ahead > _DAY else warning  # a day off, certificates and time stamps begin to fail
    said = f"{text}: behind by {ahead:.0f} s or more: {path} is newer than now"
    return finding(said, f"set the clock (timedatectl set-ntp true); if it is right: touch {path}")


def _dates(instance: Instance) -> Iterator[tuple[float, Path]]:
    for top in (instance.repository, instance.state / "logs", instance.state / "data"):
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if not name.startswith(".") and name != "__pycache__"]
            for file in files:
                path = Path(folder) / file
                try:
                    yield path.stat().st_mtime, path
                except OSError:  # gone meanwhile, or a link to nowhere
                    continue


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())
