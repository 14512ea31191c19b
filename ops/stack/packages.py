"""Debian packages: which are missing, and installing them without starting anything on the user's machine.

How it works: a package counts as there when its program is found. Root installs what is missing with apt-get,
while a `policy-rc.d` that answers 101 keeps Debian's maintainer scripts from starting services; it is taken away
again, also on Ctrl-C, and one that the machine has already is left alone. The units of what was installed are
disabled, or they would take our ports at the next boot. Anybody else gets the exact line to run.

What belongs here: everything about apt.
"""

import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stack import processes
from stack.errors import MachineNotReadyError
from stack.instance import Instance
from stack.service import Package

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = (
    "#!/bin/sh\n# Written by ./stack while it installs packages: start no service. Safe to delete.\nexit 101\n"
)


def missing(packages: Iterable[Package]) -> list[Package]:
    """Return the packages whose program is not found, each once: services may share one."""
    return [package for package in dict.fromkeys(packages) if package.find() is None]


def install(packages: list[Package], instance: Instance, cancelled: threading.Event) -> None:
    """Install packages, so that they run when `./stack` says so and at no other time.

    Raises:
        MachineNotReadyError: This user cannot install, or there is no apt-get; says what to run.
        StackError: apt-get failed; holds its last lines.
        GivenUpError: The user gave up.
    """
    names = [package.name for package in packages]
    line = f"apt-get install -y --no-install-recommends {' '.join(names)}"
    if shutil.which("apt-get") is None:
        raise MachineNotReadyError(
            f"not found on this machine: {', '.join(names)}", hint="install these servers, then ./stack up"
        )
    if os.geteuid() != 0:
        raise MachineNotReadyError(
            f"these packages are missing: {', '.join(names)}",
            hint=f"run: sudo apt-get update && sudo {line}\nthen: ./stack up",
        )
    log = instance.log("apt")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    steps = (
        ["dpkg", "--configure", "-a"],  # an installation that was interrupted earlier
        ["apt-get", "update"],
        line.split(),
    )
    with _nothing_starts():
        for step in steps:
            processes.run(step, log=log, cancelled=cancelled, what=" ".join(step), environ=environ)
    units = [package.unit for package in packages if package.unit is not None]
    if units and shutil.which("systemctl"):  # works on files, whether or not systemd runs; absent in containers
        command = ["systemctl", "disable", *units]
        processes.run(command, log=log, cancelled=cancelled, what=" ".join(command))


@contextmanager
def _nothing_starts() -> Iterator[None]:
    if _POLICY.exists() and _POLICY.read_text() != _POLICY_TEXT:
        yield  # the machine has a policy of its own
        return
    _POLICY.write_text(_POLICY_TEXT)
    try:
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
