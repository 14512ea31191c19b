"""Python environments: one per project, made with uv from the project's locked, hashed requirements.

How it works: an environment is keyed by a stamp, the hash of all that it is made from, written last: a changed
lock or an interrupted installation makes it anew, an unchanged one costs nothing. Our own libraries are not
installed but put on the path with a `.pth` file: nothing unhashed is fetched to build them, nothing is written
into the source tree, and a changed file is seen at the next start. (Their package metadata is therefore missing;
`pip install -r requirements.txt` installs them properly for everybody else.)

What belongs here: making environments. What is in them is in the requirements files.
"""

import hashlib
import os
import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from stack import processes
from stack.instance import Instance
from stack.servers.projects import LIBRARIES, ROOTS


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A Python environment: its name, the locks that fill it, the import roots on its path."""

    name: str
    locks: tuple[Path, ...]
    paths: tuple[Path, ...] = ()


def of_service(name: str) -> Environment:
    """Return what a project runs in, or a server from PyPI, whose lock is in `infra/`."""
    if name in ROOTS:
        return Environment(name=name, locks=(Path(name) / "requirements.lock",), paths=LIBRARIES)
    return Environment(name=name, locks=(Path("infra") / name / "requirements.lock",))


def is_current(environment: Environment, instance: Instance) -> bool:
    """Say whether the environment is there and made from what it should be made from."""
    stamp = _stamp_file(environment, instance)
    if not python(environment, instance).exists():  # a link: the Python that it was made from may be gone
        return False
    return stamp.exists() and stamp.read_text() == _stamp(environment, instance)


def made(environment: Environment, instance: Instance) -> float:
    """Return when the environment was made, in seconds since the epoch."""
    return _stamp_file(environment, instance).stat().st_mtime


def python(environment: Environment, instance: Instance) -> Path:
    """Return the environment's Python."""
    return instance.venv(environment.name) / "bin" / "python"


def make(
    environment: Environment, instance: Instance, cancelled: threading.Event, *, yields: bool = False
) -> None:
    """Make the environment, in the place of whatever was there.

    Args:
        environment: What to make.
        instance: Where.
        cancelled: Set when the user gives up.
        yields: Whether everything else on the machine goes first: nobody waits for it.

    Raises:
        StackError: The installation failed; holds its last lines.
        GivenUpError: The user gave up.
    """
    folder = instance.venv(environment.name)
    shutil.rmtree(folder, ignore_errors=True)
    log = instance.log(f"venv-{environment.name}")
    uv = os.environ.get("STACK_UV", "uv")
    locks = [word for lock in environment.locks for word in ("-r", str(instance.repository / lock))]
    nice = ["nice", "-n", "10"] if yields else []
    target = ["--python", str(python(environment, instance))]
    for command in (
        [uv, "venv", "--python", os.environ.get("STACK_BASE_PYTHON", sys.executable), str(folder)],
        [uv, "pip", "install", *target, "--require-hashes", "--compile-bytecode", *locks],
    ):
        what = f"making the environment {environment.name}"
        processes.run([*nice, *command], log=log, cancelled=cancelled, what=what)
    (site_packages,) = folder.glob("lib/python3.*/site-packages")
    paths = "".join(f"{instance.repository / path}\n" for path in environment.paths)
    (site_packages / "project-libraries.pth").write_text(paths)
    _stamp_file(environment, instance).write_text(_stamp(environment, instance))


def _stamp_file(environment: Environment, instance: Instance) -> Path:
    return instance.venv(environment.name) / "stamp"


def _stamp(environment: Environment, instance: Instance) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for lock in environment.locks:
        digest.update((instance.repository / lock).read_bytes())
    for path in environment.paths:
        digest.update(os.fsencode(instance.repository / path))  # a moved clone needs another .pth
    return digest.hexdigest()
