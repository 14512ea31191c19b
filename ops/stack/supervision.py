"""Supervision: supervisord keeps the programs running; this module writes its configuration and talks to it.

How it works: `configuration` renders a program section per program, none started by itself; `Supervisor` asks
for starts and stops over XML-RPC on a Unix socket that only its owner can open. Each command goes through
`setpriv --pdeathsig`: when supervisord is killed, the kernel tells its children to end, so nothing outlives it.

What belongs here: the only code that knows supervisord.
"""

import http.client
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack import folders
from stack.errors import StackError
from stack.instance import Instance
from stack.processes import MARK, tail
from stack.service import Program

_SERVER_VARIABLES = ("RABBITMQ_", "ERL_", "PG", "POSTGRES_", "REDIS_", "PYTHONPATH", "VIRTUAL_ENV", "STACK_")
"""Prefixes of what programs must not inherit from the user's shell: it would reconfigure the servers, and each
program gets its own values from its section."""

_COMMENT = re.compile(r"\s[;#]|[\r\n]")

_STOPPED, _STARTING, _RUNNING, _FATAL = 0, 10, 20, 200
_ENDED = {_STOPPED, 100, _FATAL, 1000}  # stopped, exited, fatal, unknown: supervisor/states.py


@dataclass(frozen=True, kw_only=True)
class ProgramState:
    """One program as the supervisor sees it; `started` is seconds since the epoch."""

    name: str
    code: int
    state: str
    pid: int
    started: int
    message: str

    @property
    def is_running(self) -> bool:
        """It started and stayed up."""
        return self.code == _RUNNING

    @property
    def has_ended(self) -> bool:
        """No process, and the supervisor will not start one by itself."""
        return self.code in _ENDED

    @property
    def was_stopped(self) -> bool:
        """It was never started, or stopped on purpose."""
        return self.code == _STOPPED

    @property
    def gave_up(self) -> bool:
        """It ended again and again, and the supervisor stopped trying."""
        return self.code == _FATAL


def configuration(instance: Instance, programs: Iterable[Program]) -> str:
    """Return supervisord's configuration for an instance."""
    sections = [
        ("unix_http_server", {"file": str(instance.socket), "chmod": "0700"}),
        (
            "supervisord",
            {
                "logfile": str(instance.log("supervisord")),
                "logfile_maxbytes": "10MB",
                "logfile_backups": "1",
                "pidfile": str(instance.run / "supervisord.pid"),
                "childlogdir": str(instance.log("supervisord").parent),
                "strip_ansi": "true",  # programs colour their output even in a file
                **({"user": "root"} if os.geteuid() == 0 else {}),  # silences its advice to drop root
            },
        ),
        (
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
        *((f"program:{program.name}", _section(instance, program)) for program in programs),
    ]
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {_written(value, key, name)}\n" for key, value in options.items())
        for name, options in sections
    )


def _written(value: str, key: str, section: str) -> str:
    if _COMMENT.search(value):
        raise _unwritable("what it reads as a comment", key, section.removeprefix("program:"))
    return value.replace("%", "%%")


def _section(instance: Instance, program: Program) -> dict[str, str]:
    environment = program.environment(instance)
    prefix = folders.run_as(program.user, instance.state, death_signal=program.death_signal)
    return {
        "command": shlex.join([*prefix, *program.command(instance)]),
        "directory": str(program.directory(instance)),
        "environment": ",".join(f"{key}={_quoted(value, program.name)}" for key, value in environment.items()),
        "stdout_logfile": str(instance.log(program.name)),
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "1",
        "redirect_stderr": "true",
        "autostart": "false",
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "5",
        "stopsignal": program.stop_signal,
        "stopwaitsecs": str(program.stop_wait),
        # Only the main process is asked to stop: it knows what to do with its children (Celery's would lose
        # their tasks). A main process that does not stop in time is killed with all of them.
        "stopasgroup": "false",
        "killasgroup": "true",
    }


def _quoted(value: str, program: str) -> str:
    if '"' in value or value != value.strip("'"):  # the format has no escapes, and strips quotes at both ends
        raise _unwritable("a quote", "environment", program)
    return f'"{value}"'


def _unwritable(what: str, key: str, section: str) -> StackError:
    return StackError(
        f"supervisord cannot be given {what} in the {key} of {section}",
        hint='no folder name and no setting may have a ", a blank before a ; or #, or a line break',
    )


class Supervisor:
    """An instance's supervisord, running or not."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._socket = instance.socket
        self._conf = instance.run / "supervisord.conf"

    @property
    def is_up(self) -> bool:
        """Whether it answers.

        Raises:
            StackError: It belongs to another user.
        """
        try:
            self._request("getState")
        except (FileNotFoundError, ConnectionError):
            return False
        except PermissionError as error:
            raise StackError(
                "the stack in this folder was started by another user",
                hint=f"run this command as that user (see: ls -ld {self._socket.parent})",
            ) from error
        return True

    def launch(self, programs: Iterable[Program], environ: Mapping[str, str]) -> None:
        """Start it, with no program running yet.

        Raises:
            StackError: It does not start.
        """
        folders.write_owned(
            self._conf, configuration(self._instance, programs), user=None
        )  # 0600: it holds secrets
        inherited = {k: v for k, v in environ.items() if not k.startswith(_SERVER_VARIABLES)}
        # A test session gives ports alone. Erlang looks for `df` on PATH, and from 27 on ends without it.
        inherited.setdefault("PATH", os.environ.get("PATH", os.defpath))
        inherited[MARK] = str(self._instance.state)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._conf)]
        done = subprocess.run(
            command,
            env=inherited,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            start_new_session=True,
        )
        deadline = time.monotonic() + 10
        while done.returncode == 0 and time.monotonic() < deadline:
            if self.is_up:
                return
            time.sleep(0.05)
        lines = [*done.stderr.splitlines()[-5:], *tail(self._instance.log("supervisord"), 5)]
        raise StackError("the supervisor did not start", hint="\n".join(lines))

    def extend(self, programs: Sequence[Program]) -> None:
        """Let it know programs that it does not, as after an installation; those it knows stay as they are.

        Raises:
            StackError: It refuses its new configuration.
        """
        known = self.states()
        if all(program.name in known for program in programs):
            return
        folders.write_owned(self._conf, configuration(self._instance, programs), user=None)
        for name in self._call("reloadConfig")[0][0]:  # added; then changed and removed
            self._tolerate("ALREADY_ADDED", "addProcessGroup", name)

    def shutdown(self) -> None:
        """Ask it to end, programs included; returns at once."""
        self._call("shutdown")

    def states(self) -> Mapping[str, ProgramState]:
        """Return the state of every program by its name."""
        return _States((info["name"], _state(info)) for info in self._call("getAllProcessInfo"))

    def state(self, program: str) -> ProgramState:
        """Return one program's state."""
        return self.states()[program]

    def start(self, program: str) -> None:
        """Start a program if it is not running; returns at once.

        Raises:
            StackError: It is newer than the running supervisor.
        """
        self._tolerate("ALREADY_STARTED", "startProcess", program, False)

    def stop(self, program: str) -> None:
        """Ask a program to stop if it is running; returns when it is asked.

        One that has just been started gets its second to come up first: until it has become the program, it is
        a copy of supervisord, which takes the signal and does nothing with it.
        """
        while self.state(program).code == _STARTING:
            time.sleep(0.05)
        self._tolerate("NOT_RUNNING", "stopProcess", program, False)

    def wait_ended(self, program: str, timeout: float) -> None:
        """Wait until the program has ended.

        Raises:
            StackError: It has not after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.state(program).has_ended:
            if time.monotonic() > deadline:
                raise StackError(
                    f"{program} did not stop within {timeout:.0f} s",
                    hint="look at its log with ./stack logs, then ./stack down",
                )
            time.sleep(0.05)

    def _tolerate(self, fault: str, method: str, *arguments: Any) -> None:
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as error:
            hint = "./stack down, then ./stack up"
            if error.faultString.startswith("BAD_NAME"):
                raise StackError("the stack was started before its code was updated", hint=hint) from error
            if not error.faultString.startswith(fault):
                raise StackError(f"the supervisor refuses: {error.faultString}", hint=hint) from error

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return self._request(method, *arguments)
        except (OSError, http.client.HTTPException) as error:
            raise StackError(f"the supervisor has gone: {error}", hint="./stack down, then ./stack up") from error

    def _request(self, method: str, *arguments: Any) -> Any:
        # A proxy per call: proxies are not thread-safe, and a Unix socket costs nothing to open.
        with xmlrpc.client.ServerProxy("http://supervisor", transport=_UnixTransport(self._socket)) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)


class _States(dict[str, ProgramState]):
    """States by program; one that is newer than the running supervisor (the code was updated) is not running."""

    def __missing__(self, program: str) -> ProgramState:
        return ProgramState(name=program, code=_STOPPED, state="STOPPED", pid=0, started=0, message="")


def _state(info: dict[str, Any]) -> ProgramState:
    return ProgramState(
        name=info["name"],
        code=info["state"],
        state=info["statename"],
        pid=info["pid"],
        started=info["start"],
        message=info["spawnerr"],
    )


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection("localhost", timeout=60)
        connection.path = self._path
        self._connection = host, connection  # so that closing the proxy closes it
        return connection


class _UnixConnection(http.client.HTTPConnection):
    path: Path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))
