"""Who is told about alerts: Alertmanager's receivers, from settings.

How it works: `infra/alertmanager/alertmanager.yml` names two receivers, `default` for alerts and `heartbeat` for
the one that always fires, and tells nobody. Each of these settings adds a way of being told:

    ALERT_WEBHOOK_URL    a POST with Alertmanager's JSON
    ALERT_SLACK_URL      an "incoming webhook" of Slack, or of what understands the same (Mattermost, Rocket.Chat)
    ALERT_EMAIL_TO       e-mail to these addresses, with commas between; needs ALERT_SMTP_URL
    ALERT_SMTP_URL       smtp://USER:PASSWORD@HOST:PORT; beyond this machine TLS is demanded
    ALERT_EMAIL_FROM     the sender; without it, the first of ALERT_EMAIL_TO
    ALERT_HEARTBEAT_URL  a POST every five minutes, for a service elsewhere that misses it when it stops

What belongs here: the settings and what they become. When and how often somebody is told is in that file.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from stack.errors import UsageError

_SLACK_TEXT = (
    "{{ range .Alerts }}{{ .Status }}: {{ .Annotations.summary }}\n"
    "{{ .Annotations.description }}\n{{ .Annotations.runbook }}\n{{ end }}"
)
_HERE = ("localhost", "127.0.0.1", "::1")


def add(configuration: str, values: Mapping[str, str]) -> str:
    """Return Alertmanager's configuration with the ways of being told that the settings ask for.

    Args:
        configuration: The text of `alertmanager.yml`.
        values: The instance's settings.

    Raises:
        UsageError: A setting is no address, or one that it needs is missing.
    """
    for name, ways in (("default", _ways(values)), ("heartbeat", _heartbeat(values))):
        line = f"  - name: {name}\n"
        configuration = configuration.replace(line, line + "".join(f"    {way}\n" for way in ways))
    return configuration


def _ways(values: Mapping[str, str]) -> list[str]:
    ways = []
    if values.get("ALERT_WEBHOOK_URL"):
        ways.append(_way("webhook", {"url": _url("ALERT_WEBHOOK_URL", values, "http", "https").geturl()}))
    if values.get("ALERT_SLACK_URL"):
        url = _url("ALERT_SLACK_URL", values, "http", "https").geturl()
        ways.append(_way("slack", {"api_url": url, "send_resolved": True, "text": _SLACK_TEXT}))
    if values.get("ALERT_EMAIL_TO"):
        ways.append(_way("email", _email(values)))
    return ways


def _heartbeat(values: Mapping[str, str]) -> list[str]:
    if not values.get("ALERT_HEARTBEAT_URL"):
        return []
    url = _url("ALERT_HEARTBEAT_URL", values, "http", "https").geturl()
    return [_way("webhook", {"url": url, "send_resolved": False})]


def _email(values: Mapping[str, str]) -> dict[str, Any]:
    if not values.get("ALERT_SMTP_URL"):
        raise UsageError(
            "ALERT_EMAIL_TO is set, but no server that takes the mail",
            hint="set ALERT_SMTP_URL=smtp://USER:PASSWORD@HOST:PORT as well",
        )
    server = _url("ALERT_SMTP_URL", values, "smtp")
    receivers = values["ALERT_EMAIL_TO"]
    mail: dict[str, Any] = {
        "to": receivers,
        "from": values.get("ALERT_EMAIL_FROM") or receivers.split(",")[0].strip(),
        "smarthost": f"{server.hostname}:{server.port or 587}",
        "require_tls": server.hostname not in _HERE,
        "send_resolved": True,
    }
    if server.username is not None:
        mail |= {"auth_username": unquote(server.username), "auth_password": unquote(server.password or "")}
    return mail


def _way(kind: str, settings: Mapping[str, Any]) -> str:
    return f"{kind}_configs: [{json.dumps(settings)}]"  # JSON is YAML: nothing in an address needs quoting


def _url(name: str, values: Mapping[str, str], *schemes: str) -> SplitResult:
    try:
        url = urlsplit(values[name])
        is_address = url.scheme in schemes and url.hostname and url.port != 0
    except ValueError:  # a port that is no number
        is_address = False
    if not is_address:
        raise UsageError(
            f"{name} is no address: {values[name]}", hint=f"e.g. {name}={schemes[-1]}://host.example.org:1234/"
        )
    return url
