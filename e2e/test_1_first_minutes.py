"""The first minutes: one command, links, where the credentials are, a task that ran."""

import re
import stat
import time

import httpx
import pytest
from clone import Clone

SERVICES = ("postgres", "redis", "rabbitmq", "project-api", "project-worker")


def test_up_says_what_it_did(stack: Clone, first_up: str) -> None:
    for service in SERVICES:
        assert re.search(rf"{service}\b.*\d+\.\d s", first_up), (service, first_up)
    assert f"{stack.url}/docs" in first_up
    assert str(stack.ports["RABBITMQ_MANAGEMENT_PORT"]) in first_up
    assert ".stack/env" in first_up
    assert "42" in first_up


def test_secrets_are_generated_private_and_not_printed(stack: Clone, first_up: str) -> None:
    env = stack.state / "env"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    secrets = [value for name, value in stack.settings().items() if name.endswith(("PASSWORD", "KEY"))]
    assert len(secrets) >= 4
    assert all(len(secret) >= 16 for secret in secrets)
    commands = [" ".join(process.cmdline()) for process in stack.processes()]
    said = [first_up, *commands, *(log.read_text() for log in (stack.state / "logs").glob("*.log"))]
    assert not [text for text in said for secret in secrets if secret in text]


def test_up_again_changes_nothing_and_is_quick(stack: Clone) -> None:
    before = {process.pid for process in stack.processes()}
    started = time.monotonic()
    stack.must("up")
    assert time.monotonic() - started < 20
    assert {process.pid for process in stack.processes()} == before


def test_status_names_every_service(stack: Clone) -> None:
    status = stack.must("status")
    for service in SERVICES:
        assert service in status


def test_urls_lead_somewhere(stack: Clone) -> None:
    urls = re.findall(r"(http://\S+) *(?:user (\S+), password: (\S+))?", stack.must("urls"))
    assert len(urls) >= 8
    for url, user, password in urls:
        login = (user, stack.settings()[password]) if user else None
        assert httpx.get(url, auth=login, follow_redirects=True, timeout=10).status_code == 200, url


def test_everything_listens_on_loopback_only(stack: Clone) -> None:
    listening = [
        connection.laddr
        for process in stack.processes()
        for connection in process.net_connections("inet")
        if connection.status == "LISTEN"
    ]
    assert {port for _, port in listening} >= set(stack.ports.values())
    assert {address for address, _ in listening} <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_a_log(stack: Clone, service: str) -> None:
    assert stack.must("logs", service).strip()


def test_an_unknown_service_is_told_the_known_ones(stack: Clone) -> None:
    result = stack.stack("stop", "postgresql")
    assert result.returncode != 0
    assert "postgresql" in result.stdout
    for service in SERVICES:
        assert service in result.stdout
