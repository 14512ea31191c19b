"""An instance: one running (or stopped) copy of the system, as a folder and its settings.

How it works: everything that an instance makes lies in its state folder, `.stack` in the repository unless
STACK_STATE says otherwise; its ports are in its settings. Two instances, of two clones or a test's beside the
live one, therefore run side by side.

    env                 settings and generated secrets (0600)
    data/SERVICE        a server's data, owned by the account that the server runs as
    config/SERVICE      its configuration: the template from infra/ plus this instance's ports and secrets
    logs/PROGRAM.log    what each process prints
    run/                the supervisor's socket, pid and configuration, and the lock (0700)
    venvs/NAME          Python environments
    cache/              of linters and type checkers

What belongs here: paths and values, nothing that acts.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stack import settings
from stack.ports import Port

_LONGEST_SOCKET_PATH = 100
"""Bytes; the kernel's limit is 107 (`sun_path` in unix(7)), and supervisord adds its pid while it binds."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A state folder and the settings in force in it."""

    repository: Path
    state: Path
    values: Mapping[str, str]

    @classmethod
    def at(cls, repository: Path, state: Path, ports: Iterable[Port]) -> "Instance":
        """Return the instance in `state` as it was last started; defaults where it never was."""
        values = {**settings.defaults(ports), **settings.read(state / "env")}
        return cls(repository=repository, state=state, values=values)

    def settled(self, environ: Mapping[str, str], ports: Iterable[Port], *, is_up: bool) -> "Instance":
        """Return the instance with the settings that `environ` asks for, and remember them in its file."""
        remembered = settings.read(self.env_file)
        values = settings.settle(remembered, environ, ports, has_data=self.has_data, is_up=is_up)
        if values != remembered:
            settings.write(self.env_file, values)
        return Instance(repository=self.repository, state=self.state, values=values)

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def port(self, variable: str) -> int:
        """Return the number of the port that `variable` moves."""
        return int(self.values[variable])

    @property
    def env_file(self) -> Path:
        """The settings' file."""
        return self.state / "env"

    @property
    def has_data(self) -> bool:
        """Whether a server has left data here."""
        return (self.state / "data").is_dir() and any((self.state / "data").iterdir())

    def data(self, service: str) -> Path:
        """Return the folder of a service's data."""
        return self.state / "data" / service

    def config(self, service: str) -> Path:
        """Return the folder of a service's rendered configuration."""
        return self.state / "config" / service

    def template(self, service: str, name: str) -> str:
        """Return the text of a configuration file in `infra/`."""
        return (self.repository / "infra" / service / name).read_text()

    def log(self, program: str) -> Path:
        """Return the file with what a program prints."""
        return self.state / "logs" / f"{program}.log"

    def venv(self, name: str) -> Path:
        """Return the folder of a Python environment."""
        return self.state / "venvs" / name

    @property
    def run(self) -> Path:
        """The folder of the supervisor's own files."""
        return self.state / "run"

    @property
    def socket(self) -> Path:
        """The supervisor's socket: in a private folder under the temp folder when the path would be too long."""
        path = self.run / "supervisor.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(self.state)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"stack-{os.getuid()}-{digest}" / "supervisor.sock"
