"""The instance's settings: one file of KEY=VALUE lines, `<state folder>/env`.

How it works: the first `up` writes the file, with generated secrets, readable by its owner only. The projects'
own settings read the same file, and so can a shell (`set -a; . .stack/env`). A variable in the environment of
`up` wins over the file and is remembered in it, so that later commands agree about ports. Credentials are
different once there is data: the servers were initialised with them, so another value is refused instead of
locking the user out. STACK_PORT_OFFSET moves all ports but those that were moved by their own variable.

What belongs here: which settings exist, and the file's format. Ports are declared by the services themselves.
"""

import os
import secrets
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from stack.errors import MachineNotReadyError, UsageError
from stack.ports import OFFSET, Port

FIXED = {
    "ENVIRONMENT": "development",
    "API_HOST": "127.0.0.1",
    "RABBITMQ_HOST": "127.0.0.1",
    "RABBITMQ_USER": "project",
    "RABBITMQ_VHOST": "project",
    "REDIS_HOST": "127.0.0.1",
    "REDIS_DB": "0",
    "POSTGRES_HOST": "127.0.0.1",
    "POSTGRES_USER": "project",
    "POSTGRES_DB": "project",
    "FLOWER_USER": "project",
    "GRAFANA_USER": "project",
    "PGADMIN_EMAIL": "project@example.com",
    "WORKER_CONCURRENCY": "2",
    OFFSET: "0",
}
"""Settings with a default that is no secret."""

_SECRETS_OF_DATA = ("RABBITMQ_PASSWORD", "REDIS_PASSWORD", "POSTGRES_PASSWORD", "TASK_ID_KEY")

SECRETS = (
    *_SECRETS_OF_DATA,
    "SIGNED_PICKLE_KEY",
    "FLOWER_PASSWORD",
    "GRAFANA_PASSWORD",
    "PGADMIN_PASSWORD",
)
"""Settings that are generated, once."""

OPTIONAL = (
    "LOG_FORMAT",
    "LOG_LEVEL",
    "ALERT_WEBHOOK_URL",
    "ALERT_SLACK_URL",
    "ALERT_EMAIL_TO",
    "ALERT_EMAIL_FROM",
    "ALERT_SMTP_URL",
    "ALERT_HEARTBEAT_URL",
)
"""Settings of the projects, and who is told about alerts (`servers/receivers.py`): no value until given one."""

_BOUND_TO_DATA = (
    *_SECRETS_OF_DATA,
    "RABBITMQ_USER",
    "RABBITMQ_VHOST",
    "POSTGRES_USER",
    "POSTGRES_DB",
    "PGADMIN_EMAIL",
    "PGADMIN_PASSWORD",
    "GRAFANA_USER",
    "GRAFANA_PASSWORD",
)
"""Settings that a server's data was made with: they change only when the data goes."""

_HEADER = """\
# Written by `./stack up`; read by ./stack, by both projects' settings, and by `set -a; . .stack/env`.
# It holds generated secrets: keep it private. Move a port with its variable: `API_PORT=5001 ./stack up`,
# or all of them: `STACK_PORT_OFFSET=100 ./stack up`.
"""


def read(path: Path) -> dict[str, str]:
    """Read a settings file.

    Returns:
        The settings, in the file's order; empty when there is no file.

    Raises:
        MachineNotReadyError: The file belongs to somebody else, or a line is no KEY=VALUE.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        raise MachineNotReadyError(
            f"cannot read {path}: the stack in this folder belongs to another user",
            hint="run this command as that user (see: ls -l), or work in a clone of your own",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise MachineNotReadyError(
            f"cannot read {path}: {error}", hint="put the settings file back as it was, or move it away"
        ) from error
    values = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote without its partner
            words = [line, ""]
        if not words:
            continue
        key, separator, value = words[0].partition("=")
        if len(words) != 1 or not separator:
            raise MachineNotReadyError(
                f"{path}, line {number} is no KEY=VALUE", hint="correct or remove the line"
            )
        values[key] = value
    return values


def write(path: Path, values: Mapping[str, str], header: str = _HEADER) -> None:
    """Write a settings file, whole or not at all, readable by its owner only."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    lines = "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(header + lines)
    fresh.replace(path)


def defaults(ports: Iterable[Port]) -> dict[str, str]:
    """Return every setting that is no secret, with its default."""
    return {**FIXED, **{port.variable: str(port.default) for port in ports}}


def settle(
    remembered: Mapping[str, str],
    environ: Mapping[str, str],
    ports: Iterable[Port],
    *,
    has_data: bool,
    is_up: bool,
) -> dict[str, str]:
    """Work out the settings that are in force from now on.

    Args:
        remembered: The settings file's content.
        environ: The environment of the command; its values win.
        ports: The ports of every service.
        has_data: Whether servers have data that was made with the remembered credentials.
        is_up: Whether servers are running with the remembered settings.

    Raises:
        MachineNotReadyError: The credentials of existing data are lost, or the environment contradicts them or
            the running servers.
        UsageError: A port is no port number.
    """
    ports = tuple(ports)
    if has_data:
        _check_credentials(remembered, environ)
    if is_up:
        _check_unchanged({**defaults(ports), **dict.fromkeys(OPTIONAL, ""), **remembered}, environ)
    values = {**defaults(ports), **remembered}
    # A port that is newer than the file moves with the others.
    values |= _shifted((port for port in ports if port.variable not in remembered), values, values[OFFSET], old=0)
    if environ.get(OFFSET):
        values |= _shifted(ports, values, environ[OFFSET], old=_offset(values[OFFSET]))
    values |= {name: environ[name] for name in (*values, *SECRETS, *OPTIONAL) if environ.get(name)}
    _offset(values[OFFSET])  # the file may have been edited
    for name in SECRETS:
        values.setdefault(name, secrets.token_urlsafe(32))
    taken: dict[int, str] = {}
    for port in ports:
        number = _port_number(port.variable, values[port.variable])
        if number in taken:
            raise UsageError(
                f"{port.variable} and {taken[number]} are both {number}",
                hint=f"give one of them another number, e.g. {port.variable}={number + 1} ./stack up",
            )
        taken[number] = port.variable
    return values


def _check_credentials(remembered: Mapping[str, str], environ: Mapping[str, str]) -> None:
    lost = [name for name in _SECRETS_OF_DATA if name not in remembered]
    if lost:
        raise MachineNotReadyError(
            f"there is data from an earlier run, but its credentials are gone ({', '.join(lost)})",
            hint="put the settings file back, or start over without the data: ./stack down --volumes",
        )
    for name in _BOUND_TO_DATA:
        if environ.get(name) and name in remembered and environ[name] != remembered[name]:
            raise MachineNotReadyError(
                f"{name} in your environment is not the one that the existing data was made with",
                hint=f"`unset {name}`, or start over without the data: ./stack down --volumes",
            )


def _check_unchanged(remembered: Mapping[str, str], environ: Mapping[str, str]) -> None:
    for name, value in remembered.items():
        if environ.get(name) and environ[name] != value and name not in SECRETS:
            raise MachineNotReadyError(
                f"the stack is up with {name}={value}, your environment says {environ[name]}",
                hint=f"to change it: ./stack down, then {name}={environ[name]} ./stack up",
            )


def _shifted(ports: Iterable[Port], values: Mapping[str, str], offset: str, *, old: int) -> dict[str, str]:
    """Return the ports that move with the offset: all but those that were given a number of their own."""
    new = _offset(offset)
    return {
        port.variable: str(port.default + new)
        for port in ports
        if values[port.variable] == str(port.default + old)
    }


def _offset(value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise UsageError(
            f"{OFFSET}={value} is no number", hint=f"use a number: {OFFSET}=100 ./stack up"
        ) from error


def _port_number(variable: str, value: str) -> int:
    if value.isascii() and value.isdecimal() and 1 <= int(value) <= 65535:
        return int(value)
    raise UsageError(
        f"{variable}={value} is no port", hint=f"use a number between 1 and 65535: {variable}=15000 ./stack up"
    )
