"""Who is told about alerts: what the settings become in Alertmanager's configuration."""

import re
from typing import Any

import pytest
import yaml
from promql import ROOT, rules

from stack import settings
from stack.errors import UsageError
from stack.servers import receivers

FILE = (ROOT / "infra" / "alertmanager" / "alertmanager.yml").read_text()


def told(**values: str) -> dict[str, dict[str, Any]]:
    """The receivers, by name, with these settings."""
    return {one["name"]: one for one in yaml.safe_load(receivers.add(FILE, values))["receivers"]}


def test_nobody_is_told_without_settings() -> None:
    assert receivers.add(FILE, {}) == FILE
    assert told(ALERT_WEBHOOK_URL="") == {"default": {"name": "default"}, "heartbeat": {"name": "heartbeat"}}


def test_each_setting_adds_a_way() -> None:
    all_ways = told(
        ALERT_WEBHOOK_URL="http://127.0.0.1:8000/alerts?key=a{b",
        ALERT_SLACK_URL="https://hooks.slack.com/services/T/B/x",
        ALERT_EMAIL_TO="a@example.org, b@example.org",
        ALERT_SMTP_URL="smtp://me%40example.org:p%2Fw@mail.example.org:2525",
        ALERT_HEARTBEAT_URL="https://example.org/ping",
    )
    default, heartbeat = all_ways["default"], all_ways["heartbeat"]
    assert default["webhook_configs"] == [{"url": "http://127.0.0.1:8000/alerts?key=a{b"}]
    (slack,) = default["slack_configs"]
    assert slack["api_url"] == "https://hooks.slack.com/services/T/B/x"
    assert slack["send_resolved"] is True
    assert ".Annotations.runbook" in slack["text"]
    assert default["email_configs"] == [
        {
            "to": "a@example.org, b@example.org",
            "from": "a@example.org",
            "smarthost": "mail.example.org:2525",
            "auth_username": "me@example.org",
            "auth_password": "p/w",
            "require_tls": True,
            "send_resolved": True,
        }
    ]
    assert heartbeat["webhook_configs"] == [{"url": "https://example.org/ping", "send_resolved": False}]


def test_mail_to_this_machine_needs_neither_tls_nor_login_nor_port() -> None:
    (mail,) = told(
        ALERT_EMAIL_TO="a@example.org", ALERT_SMTP_URL="smtp://localhost", ALERT_EMAIL_FROM="stack@example.org"
    )["default"]["email_configs"]
    assert mail["require_tls"] is False
    assert mail["smarthost"] == "localhost:587"
    assert mail["from"] == "stack@example.org"
    assert "auth_username" not in mail


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALERT_WEBHOOK_URL", "example.org/alerts"),
        ("ALERT_WEBHOOK_URL", "http://example.org:port/"),
        ("ALERT_SLACK_URL", "https://"),
        ("ALERT_HEARTBEAT_URL", "ftp://example.org"),
        ("ALERT_SMTP_URL", "mail.example.org:25"),
    ],
)
def test_what_is_no_address_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        told(**{"ALERT_EMAIL_TO": "a@example.org", "ALERT_SMTP_URL": "smtp://localhost", name: value})
    assert name in caught.value.hint


def test_mail_without_a_server_is_refused() -> None:
    with pytest.raises(UsageError, match="ALERT_EMAIL_TO") as caught:
        told(ALERT_EMAIL_TO="a@example.org")
    assert "ALERT_SMTP_URL" in caught.value.hint


def test_the_settings_are_remembered_by_up() -> None:
    for name in ("WEBHOOK_URL", "SLACK_URL", "EMAIL_TO", "EMAIL_FROM", "SMTP_URL", "HEARTBEAT_URL"):
        assert f"ALERT_{name}" in settings.OPTIONAL


def test_whose_results_nobody_waits_for_in_vain_is_known_of_each_program() -> None:
    contracts = "".join(path.read_text() for path in (ROOT / "libs/project-contracts/src").glob("*/*.py"))
    of_pickle = re.findall(r'name="([\w.-]+)",\s*queue=PROJECT_WORKER_PICKLE', contracts)
    assert re.findall(r"task !?= ([\w.-]+)", FILE) == 2 * of_pickle


def test_what_inhibits_and_what_is_inhibited_are_alerts() -> None:
    alerts = [rule["alert"] for rule in rules() if "alert" in rule]
    named = re.findall(r'alertname =~? "?([\w|.+]+)', FILE)
    assert len(named) > 10
    for pattern in "|".join(named).split("|"):
        assert any(re.fullmatch(pattern, alert) for alert in alerts), pattern
