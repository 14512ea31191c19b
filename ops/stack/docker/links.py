"""What there is to open, and with which login.

How it works: the links are those of the table of services, which has the same names and ports; those of services
that only Docker has stand here. The logins of development stand in the committed .env and are shown; where
ENVIRONMENT is production, they are not.

What belongs here: links, and where their values come from.
"""

import re
from collections.abc import Iterable, Mapping

from rich.console import Console

from stack import services
from stack.service import Link, Service

_ONLY_HERE = {
    "cadvisor": (Link(title="cAdvisor: containers' resources", url="http://127.0.0.1:{CADVISOR_PORT}"),),
}

_LOGINS = {
    "elasticsearch": "user elastic, password: ELASTIC_PASSWORD",
    "kibana": "user elastic, password: ELASTIC_PASSWORD",
}
"""Of services that want one with Docker only."""

_PASSWORD = re.compile(r"password: ([A-Z_]+)")


def show(names: Iterable[str], values: Mapping[str, str], console: Console) -> None:
    """Print a line per link of these services.

    Args:
        names: The services that run, and have a port on this machine.
        values: All settings in force.
        console: Where to.
    """
    of_table = {service.name: service.links or _port_of(service) for service in services.SERVICES}
    rows = []
    for name in names:
        for link in _ONLY_HERE.get(name) or of_table.get(name, ()):
            login = _LOGINS.get(name, link.login).format_map(values)
            rows.append((link.title, link.url.format_map(values), _with_password(login, values)))
    # Plain lines: a table would cut addresses to fit a narrow terminal.
    titles, addresses = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    for title, address, login in rows:
        line = f"{title:<{titles}}  {address:<{addresses}}  {login}".rstrip()
        console.print(line, soft_wrap=True, highlight=False)


def _port_of(service: Service) -> tuple[Link, ...]:
    return tuple(
        Link(title=service.description, url=f"127.0.0.1:{{{port.variable}}}") for port in service.ports[:1]
    )


def _with_password(login: str, values: Mapping[str, str]) -> str:
    if values.get("ENVIRONMENT") != "development":
        return login
    return _PASSWORD.sub(lambda found: f"password: {values.get(found[1], found[1])}", login)
