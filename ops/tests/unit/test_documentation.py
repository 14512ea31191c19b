"""Documentation against what there is: links, services and their pages, the architecture picture, commands.

Nothing is started or drawn: compose.yaml, the table of services and the pages are read.
"""

import re
import shlex
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from architecture import drawing
from stack import services, settings
from stack.cli import app
from stack.docker.stack import PORTS

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "services"
COMPOSE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
ENV = settings.read(ROOT / ".env")
NATIVE = {service.name: service for service in services.SERVICES}
SERVICES = sorted({*COMPOSE, *NATIVE})
TEXTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "infra/*/*.md", "project-*/*.md", "libs/*/*.md")
    for path in ROOT.glob(pattern)
)
DOCKER_TEXTS = [ROOT / "README.md", *PAGES.glob("*.md"), *(ROOT / "docs").glob("*/*ocker*.md")]
DOCKER_TEXTS += [ROOT / "docs" / "how-to" / "upgrade.md"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def published(service: str) -> set[str]:
    """The ports of a service's containers that this machine has, by compose.yaml."""
    return {mapping.rpartition(":")[2] for mapping in COMPOSE.get(service, {}).get("ports", ())}


def profile(service: str) -> str:
    if service in COMPOSE:
        (only,) = COMPOSE[service].get("profiles", ["core"])
        return str(only)
    return NATIVE[service].profile


@cache
def anchors(path: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub does it."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
        found.add(words.replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), f"{target}: there is no {place}"
        if anchor:
            assert anchor in anchors(place), f"{target}: {sorted(anchors(place))}"


def test_every_service_has_a_page_and_the_index_names_them_all() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "README") == SERVICES
    rows = re.findall(r"^\| (\w+) \| \[([\w-]+)\]\(\2\.md\) \|", (PAGES / "README.md").read_text(), re.MULTILINE)
    assert sorted((service, profile(service)) for service in SERVICES) == sorted(
        (service, named) for named, service in rows
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_page_says_what_its_service_is(service: str) -> None:
    text = (PAGES / f"{service}.md").read_text()
    assert text.startswith(f"# {service}\n")
    assert len(text.splitlines()) <= 60
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.+) \|$", text, re.MULTILINE))
    assert rows.keys() >= {"profile", "called by", "port", "login", "configuration", "data"}
    assert rows["profile"].startswith(f"`{profile(service)}`")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] in {"When it is down", "When it fails"}
    assert headings[1:] == ["Upgrade"]
    ports = set(re.findall(r"\b(\d{4,5})\b", rows["port"]))
    assert ports >= published(service)
    assert ports <= {str(port.default) for port in PORTS}
    variables = set(re.findall(r"`([A-Z_]+_PORT)`", rows["port"]))
    assert {str(port.default) for port in PORTS if port.variable in variables} == ports
    volumes = {mount.partition(":")[0] for mount in COMPOSE.get(service, {}).get("volumes", ()) if ":" in mount}
    for volume in volumes:
        assert not re.fullmatch(r"[a-z-]+-data", volume) or f"`{volume}`" in rows["data"], volume


LOGINS = {
    "elasticsearch": ("elastic", ENV["ELASTIC_PASSWORD"]),
    "flower": (ENV["FLOWER_USER"], ENV["FLOWER_PASSWORD"]),
    "grafana": (ENV["GRAFANA_USER"], ENV["GRAFANA_PASSWORD"]),
    "kibana": ("elastic", ENV["ELASTIC_PASSWORD"]),
    "pgadmin": (ENV["PGADMIN_EMAIL"], ENV["PGADMIN_PASSWORD"]),
    "postgres": (ENV["POSTGRES_USER"], ENV["POSTGRES_PASSWORD"]),
    "rabbitmq": (ENV["RABBITMQ_USER"], ENV["RABBITMQ_PASSWORD"]),
}


@pytest.mark.parametrize("service", LOGINS)
def test_logins_are_those_of_the_env_file(service: str) -> None:
    login = " / ".join(f"`{word}`" for word in LOGINS[service])
    assert login in (PAGES / f"{service}.md").read_text()
    assert re.search(rf"{service}.*{re.escape(login)}", (ROOT / "README.md").read_text(), re.IGNORECASE)


@pytest.mark.parametrize("path", DOCKER_TEXTS, ids=name)
def test_files_settings_and_addresses_that_are_named_are_there(path: Path) -> None:
    text = path.read_text()
    ports = {str(port.default) for port in PORTS} | {"4318"}  # a collector of traces, yours
    assert set(re.findall(r"(?:localhost|127\.0\.0\.1):(\d+)", text)) <= ports
    for file in re.findall(r"`((?:infra|ops|libs|project-api|project-worker|e2e)/[\w./-]+)`", text):
        assert (ROOT / file).exists() or file.endswith("texts.py"), file  # those, README has the reader write
    for volume in re.findall(r"\blocal-dev_([a-z-]+)", text):
        assert volume in yaml.safe_load((ROOT / "compose.yaml").read_text())["volumes"], volume
    for variable in re.findall(r"`([A-Z]+_VERSION)`", text):
        assert variable in ENV or variable == "PG_VERSION", variable  # PostgreSQL's own file


def commands(text: str) -> list[list[str]]:
    """The words of what stands in a page's blocks and between backticks: commands, among others."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in (*lines, *spans):
        try:
            found.append(shlex.split(line.partition(" #")[0]))
        except ValueError:
            continue  # a part of a text with an apostrophe: no command
    return [words for words in found if words]


COMPOSE_COMMANDS = {
    "build", "config", "down", "exec", "logs", "ps", "pull", "restart", "rm", "start", "stop", "up", "watch",
}  # fmt: skip


@pytest.mark.parametrize("path", DOCKER_TEXTS, ids=name)
def test_commands_are_understood(path: Path) -> None:
    for words in commands(path.read_text()):
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        words = words[: words.index("--")] if "--" in words else words  # what follows is pytest's
        if "--profile" in words and "*" in words:
            words = [word for word in words if word not in {"--profile", "*"}]
        for same in (["docker-compose", "-p", "local-dev"], ["docker", "compose", "-p", "local-dev"]):
            if words[: len(same)] == same:
                words = ["docker", "compose", *words[len(same) :]]
        if words[:2] == ["docker", "compose"] and len(words) > 2:
            assert words[2] in COMPOSE_COMMANDS, words
            named = [word for word in words[3:] if re.fullmatch("[a-z][a-z-]+", word)]
            named = named[:1] if words[2] == "exec" else named  # what follows runs in the container
            assert {*named} <= COMPOSE.keys(), words
            scaled = {word.partition("=")[0] for word in words if re.fullmatch(r"[a-z-]+=\d", word)}
            assert scaled <= COMPOSE.keys()
        elif words[:1] == ["./stack"] and len(words) > 1:
            answer = CliRunner().invoke(app, [*words[1:], "--help"])  # what is not understood is told before it
            assert answer.exit_code == 0, f"{words}: {answer.output}"


def boxes() -> dict[str, tuple[set[str], str]]:
    """The services in the picture: each one's classes, and what stands in its box."""
    space = "{http://www.w3.org/2000/svg}"
    found = {}
    for group in ElementTree.parse(drawing.PICTURE).iter(f"{space}g"):  # noqa: S314 (a file of ours)
        classes = set(group.get("class", "").split())
        if "service" in classes:
            title = group.findtext(f"{space}title")
            assert title is not None
            found[title] = (classes, " ".join(text.text or "" for text in group.iter(f"{space}text")))
    return found


def test_the_picture_is_the_one_of_its_text() -> None:
    assert drawing.stamp() in drawing.PICTURE.read_text(), "draw it anew: cd ops && python3 -m architecture"


def test_the_picture_shows_every_service_and_no_other() -> None:
    shown = boxes()
    assert sorted(shown) == SERVICES
    for service, (classes, text) in shown.items():
        assert profile(service) in classes, service
        assert ("native" in classes) == (service not in COMPOSE), service
        numbers = set(re.findall(r"\b\d{4,5}\b", text))
        assert published(service) <= numbers <= {str(port.default) for port in PORTS}, service


def test_the_picture_says_whom_prometheus_asks() -> None:
    folder = ROOT / "infra" / "prometheus"
    asked = {
        target.partition(":")[0]
        for path in folder.glob("docker-targets/*.json")
        for group in yaml.safe_load(path.read_text())
        for target in group["targets"]
    }
    added = (folder / "docker.yml").read_text()
    asked |= {service for service in COMPOSE if re.search(rf"\[{service}(:\d+)?\]", added)}
    assert {service for service, (_, text) in boxes().items() if "●" in text} == asked | {"process-exporter"}
