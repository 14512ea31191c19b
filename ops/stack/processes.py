"""Programs that this tool runs to their end, and processes that an instance may have left behind.

How it works: a step's output goes to a log file, whose last lines are shown when the step fails. Everything that
the supervisor starts carries STACK_INSTANCE in its environment, so that an instance's processes are found even
after their supervisor was killed.

What belongs here: running, finding and ending processes. Supervised ones are in `supervision.py`.
"""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from stack.errors import GivenUpError, StackError

MARK = "STACK_INSTANCE"
"""Environment variable with the state folder of the instance that a process belongs to."""

_RETITLED = ("postgres", "redis-server")
"""Programs that write their title over their environment; they are known by their working folder, the data's."""

_POLL = 0.05  # s

_VERSION = re.compile(r"\d+(\.\d+)+")


def run(
    command: Sequence[str],
    *,
    log: Path,
    cancelled: threading.Event,
    what: str,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Run a command to its end, in a session of its own so that Ctrl-C reaches it only through us.

    When we are killed the kernel ends it: it must not go on in a folder that the next `up` makes anew.

    Args:
        command: The program and its arguments.
        log: Where its output is added.
        cancelled: Set when the user gives up: the command is then asked to end, and waited for.
        what: What the command does, for the message when it fails.
        environ: Its environment; ours when None.

    Raises:
        StackError: It failed; holds its last lines.
        GivenUpError, KeyboardInterrupt: It was cancelled, from another thread or in this one.
    """
    with log.open("ab") as output:
        start = output.tell()
        with subprocess.Popen(
            ["setpriv", "--pdeathsig", "INT", "--", *command],  # INT is what apt-get and uv end on cleanly
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        ) as process:
            try:
                while process.poll() is None and not cancelled.wait(_POLL):
                    pass
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    process.wait()
    if cancelled.is_set():
        raise GivenUpError
    if process.returncode:
        lines = tail(log, 15, start=start) or ["(it printed nothing)"]
        raise StackError(
            f"{what} failed (exit code {process.returncode})",
            hint="\n".join([*lines, f"whole output: {log}"]),
        )


def reported_version(program: Path) -> str | None:
    """Return what a program says that its version is, `15.18` or `7.0.15`; None when it says no such thing."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stdout + done.stderr)  # redis-exporter logs it
    return found[0] if found else None


def tail(log: Path, count: int, *, start: int = 0) -> list[str]:
    """Return the last `count` lines of a log file, from the byte `start` on; none when there is no file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 64 * 1024))  # enough for any `count` in use
            return file.read().decode(errors="replace").splitlines()[-count:] if count else []
    except FileNotFoundError:
        return []


def left_behind(state: Path) -> list[psutil.Process]:
    """Return the living processes that belong to the instance in `state`, its supervisor included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and _belongs(process, state):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone meanwhile, or another user's: not ours
    return found


def _belongs(process: psutil.Process, state: Path) -> bool:
    if process.environ().get(MARK) == str(state):
        return True
    return process.name() in _RETITLED and Path(process.cwd()).is_relative_to(state / "data")


def wait_until_gone(state: Path, timeout: float) -> list[psutil.Process]:
    """Wait until the instance has no process.

    Args:
        state: The instance's state folder.
        timeout: How long to wait, in seconds.

    Returns:
        The processes that are still there.
    """
    deadline = time.monotonic() + timeout
    while (rest := left_behind(state)) and time.monotonic() < deadline:
        time.sleep(_POLL)
    return rest


def end_left_behind(state: Path, timeout: float) -> None:
    """Wait until the instance has no process, and kill those that are still there after `timeout` seconds.

    Raises:
        StackError: Some cannot be killed.
    """
    for process in wait_until_gone(state, timeout):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    if rest := wait_until_gone(state, timeout=5):
        names = ", ".join(f"{process.name()} (pid {process.pid})" for process in rest)
        raise StackError(f"processes of this stack do not end: {names}", hint="kill them, then try again")
