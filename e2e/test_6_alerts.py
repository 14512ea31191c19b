"""Alerts, fired for real: a fault reaches a webhook, and so does its end; and what nobody notices.

Without `--all`, each `for` of the rules and the time between two messages are cut to seconds
(`alerting.shortened`); with it, the timings are those that are shipped. Both print how long it took from the
fault to the webhook and back. What is inhibited is looked up in Alertmanager: that nobody was told of it within
some seconds would say less.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import httpx
import pytest
from alerting import Webhook, listening, shortened
from clone import REPOSITORY, Clone, wait_until

IS_SHORT = not float(os.environ.get("FAULT_SCALE", "0"))
PATIENCE = 60 if IS_SHORT else 240  # s, until somebody is told
SETTINGS = ("ALERT_WEBHOOK_URL", "ALERT_HEARTBEAT_URL")
MONITORING = (
    "prometheus",
    "alertmanager",
    "postgres-exporter",
    "redis-exporter",
    "node-exporter",
    "process-exporter",
)


@pytest.fixture(scope="module")
def webhook(clone: Clone, first_up: str) -> Iterator[Webhook]:
    """Whoever is told about alerts, by the settings that a user would write."""
    env = clone.state / "env"
    with listening() as made, shortened(clone.folder / "infra") if IS_SHORT else nullcontext():
        with env.open("a") as file:
            file.write(f"ALERT_WEBHOOK_URL={made.url}/alerts\nALERT_HEARTBEAT_URL={made.url}/heartbeat\n")
        clone.must("restart", "prometheus", "alertmanager")
        yield made
        kept = [line for line in env.read_text().splitlines(keepends=True) if not line.startswith(SETTINGS)]
        env.write_text("".join(kept))
    clone.must("restart", "prometheus", "alertmanager")


def inhibited(stack: Clone, **labels: str) -> bool:
    """Whether Alertmanager has an alert with these labels, and keeps it to itself because of another one."""
    answer = httpx.get(f"http://127.0.0.1:{stack.ports['ALERTMANAGER_PORT']}/api/v2/alerts", timeout=10)
    found = [alert for alert in answer.json() if labels.items() <= alert["labels"].items()]
    return bool(found) and all(alert["status"]["inhibitedBy"] for alert in found)


def wait_told(webhook: Webhook, since: float, status: str, alerts: dict[str, dict[str, str]]) -> None:
    """Wait until each alert, by its name and labels, has been told; print how long after the command's begin.

    From its begin: a server's ports are closed, or open again, before the command has ended.
    """
    for name, labels in alerts.items():
        wait_until(
            partial(webhook.find, name, status, since=since, **labels),
            PATIENCE,
            f"{name} {status}; heard: {[(one.status, one.labels) for one in webhook.heard]}",
        )
        told = webhook.find(name, status, since=since, **labels)
        assert told is not None
        assert told.path == "/alerts"
        assert told.annotations["runbook"] == f"docs/runbooks/{name}.md"
        print(f"{name}: {status} told {told.at - since:.0f} s after")


def test_a_stopped_worker_and_a_stopped_exporter_are_told_and_their_return(
    stack: Clone, webhook: Webhook
) -> None:
    expected = {
        "NoWorkerUp": {"severity": "page", "program": "project-worker"},
        "QueueNoConsumers": {"queue": "project-worker"},
        "TargetDown": {"severity": "ticket", "job": "node"},  # the worker's, a page, says nothing about it
    }
    stopped = ("project-worker", "node-exporter")
    fault = time.monotonic()
    stack.must("stop", *stopped)
    try:
        wait_told(webhook, fault, "firing", expected)
        # What follows from it stands on Alertmanager's page only.
        inhibited_too = partial(inhibited, stack, alertname="TargetDown", job="project-worker")
        wait_until(inhibited_too, PATIENCE, "it is inhibited")
        # It is stopped with the other one.
        wait_told(webhook, fault, "firing", {"NoWorkerUp": {"program": "project-worker-pickle"}})
    finally:
        repair = time.monotonic()
        stack.must("start", *stopped)
    wait_told(webhook, repair, "resolved", expected)
    wait_told(webhook, repair, "resolved", {"NoWorkerUp": {"program": "project-worker-pickle"}})


def test_of_two_workers_the_one_that_hangs_is_named(stack: Clone, webhook: Webhook) -> None:
    hangs = {"job": "project-worker", "program": "project-worker"}
    fault = time.monotonic()
    victim = stack.program("-A tasks:app worker")
    victim.send_signal(signal.SIGSTOP)
    try:
        wait_told(webhook, fault, "firing", {"NoWorkerUp": hangs})
        inhibited_too = partial(inhibited, stack, alertname="TargetDown", **hangs)
        wait_until(inhibited_too, PATIENCE, "it is inhibited")
    finally:
        repair = time.monotonic()
        victim.send_signal(signal.SIGCONT)
    wait_told(webhook, repair, "resolved", {"NoWorkerUp": hangs})
    assert not webhook.find("NoWorkerUp", "firing", since=fault, program="project-worker-pickle")
    wait_until(lambda: stack.multiply(6, 7).status_code == 200, 30, "a task goes all the way")


def test_stopped_servers_are_told_and_their_return(stack: Clone, webhook: Webhook) -> None:
    expected: dict[str, dict[str, str]] = {"RedisDown": {}, "PostgresDown": {}}
    stopped = ("redis", "postgres")
    fault = time.monotonic()
    stack.must("stop", *stopped)
    try:
        wait_told(webhook, fault, "firing", expected)
    finally:
        repair = time.monotonic()
        stack.must("start", *stopped)
    wait_told(webhook, repair, "resolved", expected)
    wait_until(stack.ready, 30, "all is well again")


def test_without_the_broker_its_own_alert_is_told_and_what_follows_is_inhibited(
    stack: Clone, webhook: Webhook
) -> None:
    fault = time.monotonic()
    stack.must("stop", "rabbitmq")
    try:
        wait_told(webhook, fault, "firing", {"RabbitMQDown": {}})
        for job in ("rabbitmq", "rabbitmq-detailed"):
            wait_until(
                partial(inhibited, stack, alertname="TargetDown", job=job), PATIENCE, f"{job} is inhibited"
            )
    finally:
        repair = time.monotonic()
        stack.must("start", "rabbitmq")
    wait_told(webhook, repair, "resolved", {"RabbitMQDown": {}})
    wait_until(lambda: stack.multiply(6, 7).status_code == 200, 30, "a task goes all the way")


def test_the_heartbeat_is_heard_elsewhere(stack: Clone, webhook: Webhook) -> None:
    # What fires before Prometheus has found Alertmanager, in its first seconds, it sends a minute later.
    wait_until(partial(webhook.find, "Watchdog", "firing", since=0), 150, "the heartbeat is sent")
    assert {told.path for told in webhook.heard if told.labels["alertname"] == "Watchdog"} == {"/heartbeat"}


def works_as_ever(stack: Clone) -> None:
    """Tasks go all the way, each within the time that they take otherwise."""
    for number in range(20):
        started = time.monotonic()
        answer = stack.multiply(number, 7)
        assert (answer.status_code, answer.json()["result"]) == (200, number * 7)
        assert time.monotonic() - started < 2
    assert stack.ready()


def test_nobody_notices_that_the_monitoring_is_down(stack: Clone) -> None:
    wait_until(lambda: stack.multiply(6, 7).status_code == 200, 30, "all is well")
    with stack.stopped(*MONITORING):
        works_as_ever(stack)


def test_nobody_notices_that_the_monitoring_hangs(stack: Clone) -> None:
    words = ("/prometheus ", "alertmanager", "postgres-exporter", "redis-exporter", "node-exporter")
    victims = [stack.program(each) for each in words]
    for victim in victims:
        victim.send_signal(signal.SIGSTOP)  # their connections stay open, and are read by nobody
    try:
        works_as_ever(stack)
    finally:
        for victim in victims:
            victim.send_signal(signal.SIGCONT)


def code_blocks(path: Path) -> list[str]:
    """Every block of shell commands on a page."""
    return re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def run(script: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a script; return how it ended and what it said if it failed, else nothing."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return f"exit {done.returncode}: {done.stdout}" if done.returncode else ""


def end_silences(stack: Clone) -> None:
    """End what the runbooks' example of a silence has made."""
    url = f"http://127.0.0.1:{stack.ports['ALERTMANAGER_PORT']}/api/v2"
    for silence in httpx.get(f"{url}/silences", timeout=10).json():
        if silence["status"]["state"] == "active":
            httpx.delete(f"{url}/silence/{silence['id']}", timeout=10).raise_for_status()


def test_the_first_looks_of_the_runbooks_work(stack: Clone) -> None:
    runbooks = stack.folder / "docs" / "runbooks"
    preparation, *others = code_blocks(runbooks / "README.md")
    for page in runbooks.glob("*.md"):
        others += code_blocks(page) if page.stem != "README" else []
    looks = {line for block in others for line in block.splitlines()}
    assert len(looks) > 50
    try:
        said = {line: run(f"{preparation}\n{line}", stack.folder, stack.environment) for line in sorted(looks)}
    finally:
        end_silences(stack)
    assert not {line: text for line, text in said.items() if text}


def test_the_commands_for_a_new_alert_work(stack: Clone) -> None:
    (script,) = code_blocks(REPOSITORY / "docs" / "how-to" / "add-a-metric-a-panel-an-alert.md")
    assert not run(script, REPOSITORY, stack.environment)
