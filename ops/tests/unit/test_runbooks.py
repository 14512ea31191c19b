"""Runbooks: a page per alert, with commands, addresses, panels and settings that there are.

That the commands of "First look" work is shown on a live stack, by `e2e/test_6_alerts.py`.
"""

import re
import shlex
from pathlib import Path

import pytest
from promql import ROOT, metrics_of, rules, types_of_metrics
from typer.testing import CliRunner

from dashboards import model
from stack import services, settings
from stack.cli import app

FOLDER = ROOT / "docs" / "runbooks"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.stem != "README")
ALERTS = [rule for rule in rules() if "alert" in rule]
EXPORTED = types_of_metrics()
DASHBOARDS = {model.read(path).title: path for path in ROOT.glob("infra/grafana/dashboards/*.json")}


def commands(text: str, program: str) -> set[str]:
    """Every command of a program: lines of code blocks, and what stands between backticks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [line for block in blocks for line in block.splitlines()]
    return {line for line in (*lines, *spans) if line.split()[0] == program}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_has_a_page(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket", "none"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert all(rule["annotations"].values())
    assert ROOT / rule["annotations"]["runbook"] == FOLDER / f"{rule['alert']}.md"


def test_there_is_a_page_for_each_alert_and_an_alert_for_each_page() -> None:
    names = {str(rule["alert"]) for rule in ALERTS}
    assert {path.stem for path in PAGES} == names
    assert set(re.findall(r"\[(\w+)\]\(\1\.md\)", (FOLDER / "README.md").read_text())) == names


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_answers_what_is_asked_at_night(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {path.stem}\n")
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    assert parts[1::2] == ["Meaning", "Impact", "First look", "Likely causes", "Fix", "Over when"]
    assert all(part.strip() for part in parts[2::2])
    assert "```sh\n" in parts[6]


@pytest.mark.parametrize("path", [*PAGES, FOLDER / "README.md"], ids=lambda path: path.stem)
def test_its_commands_are_understood(path: Path) -> None:
    for line in commands(path.read_text(), "./stack"):
        words = shlex.split(line.partition(" -- ")[0])[1:]  # what follows is pytest's
        answer = CliRunner().invoke(app, [*words, "--help"])  # what is not understood is told before the help
        assert answer.exit_code == 0, f"{line}: {answer.output}"
        if words[0] in {"start", "stop", "restart", "logs"}:
            services.by_name(word for word in words[1:] if re.fullmatch("[a-z][a-z-]+", word))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_it_asks_prometheus_is_exported(path: Path) -> None:
    for line in commands(path.read_text(), "ask"):
        _, expression = shlex.split(line)
        for metric, _ in metrics_of(expression):
            assert metric in EXPORTED, f"{line}: nothing exports {metric}"


@pytest.mark.parametrize("path", [*PAGES, FOLDER / "README.md"], ids=lambda path: path.stem)
def test_its_addresses_panels_and_settings_are_there(path: Path) -> None:
    text = path.read_text()
    ports = {port.default for port in services.PORTS}
    assert {int(port) for port in re.findall(r"(?:localhost|127\.0\.0\.1):(\d+)", text)} <= ports
    for number, titles in re.findall(r'(D\d), ("[^"]+"(?: and "[^"]+")*)', text):
        (dashboard,) = (model.read(path) for title, path in DASHBOARDS.items() if title.startswith(number))
        assert set(re.findall('"([^"]+)"', titles)) <= {panel.title for panel in dashboard.panels}
    known = {*settings.defaults(services.PORTS), *settings.SECRETS, *settings.OPTIONAL}
    configs = ("project-api/project-api/app/core/config.py", "project-worker/project-worker/worker/config.py")
    fields = "".join((ROOT / config).read_text() for config in configs)
    for name in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", text):
        assert name in known or re.search(rf"^    {name.lower()}:", fields, re.MULTILINE), name
