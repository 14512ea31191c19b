"""What compose.yaml expects of images that no test starts: their programs, and the folders that they write.

How it works: a table says of each image what its makers' Dockerfile says (`source`, in their repository); the
tests hold compose.yaml to it. Nothing is started, and nothing can be: these images are in registries only.

What belongs here: what is known of other people's images. Add an entry with each image that
`e2e/test_9_docker.py` cannot run.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from .test_compose import ROOT, mounts, render

Words = Sequence[str]


def _beat(words: Words) -> tuple[str, ...]:
    """Return where Filebeat writes: each of its commands makes `meta.json`, `filebeat test` too."""
    told = dict(word.removeprefix("--path.").split("=", 1) for word in words if word.startswith("--path."))
    return tuple(told.get(name, f"/usr/share/filebeat/{name}") for name in ("data", "logs"))


@dataclass(frozen=True, kw_only=True)
class Image:
    """What is known of an image.

    Attributes:
        name: without its tag.
        source: the file that says so, in its makers' repository.
        user: whom it runs as, unless told otherwise.
        programs: those of its programs that a health check may call.
        writes: the folders that a command line, its own or the check's, writes to.
    """

    name: str
    source: str
    user: str
    programs: frozenset[str]
    writes: Callable[[Words], tuple[str, ...]]


NOT_RUN = {
    "grafana": Image(
        name="grafana/grafana",
        source="grafana/grafana: Dockerfile",
        user="472",
        programs=frozenset({"wget", "curl"}),  # Alpine's busybox, and a package
        writes=lambda _: ("/var/lib/grafana", "/var/lib/grafana/plugins", "/tmp"),
    ),
    "cadvisor": Image(
        name="ghcr.io/google/cadvisor",
        source="google/cadvisor: deploy/Dockerfile",
        user="root",
        programs=frozenset(
            {"wget"}
        ),  # Alpine's busybox: there is no curl, though an older one asks for its health with it
        writes=lambda _: (),
    ),
    "elasticsearch": Image(
        name="docker.elastic.co/elasticsearch/elasticsearch",
        source="elastic/elasticsearch: distribution/docker/src/docker/Dockerfile",
        user="1000",
        programs=frozenset({"curl"}),
        # Its keystore, with ELASTIC_PASSWORD, is made beside its configuration.
        writes=lambda _: ("/usr/share/elasticsearch/data", "/usr/share/elasticsearch/config", "/tmp"),
    ),
    "kibana": Image(
        name="docker.elastic.co/kibana/kibana",
        source="elastic/kibana: src/dev/build/tasks/os_packages/docker_generator/templates/base/Dockerfile",
        user="1000",
        programs=frozenset({"curl"}),
        writes=lambda _: ("/usr/share/kibana/data", "/usr/share/kibana/node_modules/.cache", "/tmp"),
    ),
    "filebeat": Image(
        name="docker.elastic.co/beats/filebeat",
        source="elastic/beats: dev-tools/packaging/templates/docker/Dockerfile.tmpl",
        user="filebeat",
        programs=frozenset({"filebeat"}),  # its folder is on PATH
        writes=_beat,
    ),
}


@pytest.fixture(scope="module")
def entries() -> Mapping[str, Any]:
    found: Mapping[str, Any] = render("--profile", "*")["services"]
    return found


def check_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the words of a health check."""
    kind, *words = entry["healthcheck"]["test"]
    return shlex.split(words[0], posix=True) if kind == "CMD-SHELL" else words


def is_writable(folder: str, entry: Mapping[str, Any]) -> bool:
    """Whether a folder lies in a volume or in memory, or the image's own files can be changed."""
    if not entry.get("read_only"):
        return True
    places = [mount["target"] for mount in mounts(entry, "volume") if not mount.get("read_only")]
    places += [place.partition(":")[0] for place in entry.get("tmpfs", ())]
    return any(PurePosixPath(folder).is_relative_to(place) for place in places)


def commands(entry: Mapping[str, Any]) -> Iterator[Words]:
    yield entry.get("command") or ()
    yield check_of(entry)


def test_the_table_has_what_the_tests_with_containers_leave_out(entries: Mapping[str, Any]) -> None:
    replaced = (ROOT / "e2e/docker/override.yaml").read_text().replace("!override ", "")
    stand_ins = {name for name, said in yaml.safe_load(replaced)["services"].items() if "image" in said}
    built = {name for name, entry in entries.items() if "build" in entry}
    assert NOT_RUN.keys() == entries.keys() - stand_ins - built


@pytest.mark.parametrize(("service", "image"), NOT_RUN.items(), ids=NOT_RUN)
def test_it_finds_its_programs_and_can_write(service: str, image: Image, entries: Mapping[str, Any]) -> None:
    entry = entries[service]
    assert entry["image"].rpartition(":")[0] == image.name
    assert check_of(entry)[0] in image.programs, image.source
    for words in commands(entry):
        for folder in image.writes(words):
            assert is_writable(folder, entry), f"{service} writes {folder}, which is read-only: {image.source}"


def test_filebeats_check_writes_where_filebeat_does(entries: Mapping[str, Any]) -> None:
    program, check = (_beat(words) for words in commands(entries["filebeat"]))
    assert program == check


def test_only_who_must_is_root(entries: Mapping[str, Any]) -> None:
    root = {name for name, image in NOT_RUN.items() if entries[name].get("user", image.user) == "root"}
    assert root == {"cadvisor", "filebeat"}  # Docker's files are root's
