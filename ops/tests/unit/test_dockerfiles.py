"""The Dockerfiles, without an engine: what each promises, and what a linter says of it.

How it works: an instruction is taken apart by its words, as Docker does; hadolint is the linter. That they build,
how large the images are and that they run is `e2e/test_9_docker.py`'s.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
CONTEXTS = {
    "project-api/Dockerfile": ".",
    "project-worker/Dockerfile": ".",
    "infra/flower/Dockerfile": "infra/flower",
}
"""Where each is built."""

each = pytest.mark.parametrize("dockerfile", CONTEXTS)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction: its word, and the rest on one line."""

    word: str
    rest: str


@cache
def stages(dockerfile: str) -> list[list[Instruction]]:
    """Return the instructions by stage; the first are those before any."""
    text = re.sub(r"^\s*#.*\n", "", (REPOSITORY / dockerfile).read_text(), flags=re.MULTILINE)
    found: list[list[Instruction]] = [[]]
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            if word == "FROM":
                found.append([])
            found[-1].append(Instruction(word=word, rest=rest.strip()))
    return found


def copied(dockerfile: str) -> set[str]:
    """Return what it copies of its context."""
    copies = [step.rest for stage in stages(dockerfile) for step in stage if step.word == "COPY"]
    sources = [source for text in copies if "--from=" not in text for source in text.split()[:-1]]
    return {source for source in sources if not source.startswith("--")}


def rests(dockerfile: str, word: str) -> list[str]:
    """Return the last stage's instructions of a word."""
    return [instruction.rest for instruction in stages(dockerfile)[-1] if instruction.word == word]


@each
def test_the_linter_has_nothing_to_say(dockerfile: str) -> None:
    linter = Path(sys.executable).parent / "hadolint"
    said = subprocess.run(
        [linter, "--no-color", REPOSITORY / dockerfile], capture_output=True, text=True, timeout=60, check=False
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


@each
def test_both_stages_begin_with_the_same_pinned_base(dockerfile: str) -> None:
    before, build, final = stages(dockerfile)
    committed = dict(
        line.split("=", 1) for line in (REPOSITORY / ".env").read_text().splitlines() if re.match(r"\w+=", line)
    )
    assert [instruction.rest for instruction in before] == [f"PYTHON_VERSION={committed['PYTHON_VERSION']}"]
    base = "python:${PYTHON_VERSION}-slim"
    assert (build[0].rest, final[0].rest) == (f"{base} AS build", base)


@each
def test_what_is_installed_is_pinned_and_needs_no_compiler(dockerfile: str) -> None:
    *_, build, final = stages(dockerfile)
    ran = [instruction.rest for instruction in build if instruction.word == "RUN"]
    assert sum("pip install --no-cache-dir --root-user-action=ignore uv==" in command for command in ran) == 1
    (locked,) = (command for command in ran if "uv pip install" in command)
    assert {"--require-hashes", "--no-build", "--compile-bytecode", "/build/requirements.lock"} <= set(
        locked.split()
    )
    for command in (instruction.rest for instruction in final if instruction.word == "RUN"):
        assert not re.search(r"\b(pip|uv|apt-get|curl|wget)\b", command)


@each
def test_it_runs_as_a_user_of_its_own_by_number(dockerfile: str) -> None:
    assert rests(dockerfile, "USER") == ["10001:10001"]
    assert any("useradd" in command and "--uid 10001" in command for command in rests(dockerfile, "RUN"))
    final = [instruction.word for instruction in stages(dockerfile)[-1]]
    assert not {"RUN", "COPY", "ADD"} & set(final[final.index("USER") :])
    assert not any("--chown" in copied for copied in rests(dockerfile, "COPY"))  # it cannot change its program


@each
def test_commands_and_checks_are_processes_without_a_shell(dockerfile: str) -> None:
    (command,) = rests(dockerfile, "CMD")
    (check,) = rests(dockerfile, "HEALTHCHECK")
    options, _, checked = check.partition("CMD ")
    for text in (command, checked):
        words = json.loads(text)
        assert words
        assert all(isinstance(word, str) for word in words)
    assert json.loads(checked)[:2] == ["python", "-c"]
    compile(json.loads(checked)[2], dockerfile, "exec")
    assert {"--interval", "--timeout", "--start-period"} == {option.split("=")[0] for option in options.split()}


@each
def test_it_copies_what_is_there(dockerfile: str) -> None:
    sources = copied(dockerfile)
    assert sources
    assert [name for name in sources if not (REPOSITORY / CONTEXTS[dockerfile] / name).exists()] == []


def test_what_the_images_take_is_all_that_is_sent() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    # Each is named whole: engines before 23 send nothing for a `*` in such a line.
    assert sent == {
        name for dockerfile, context in CONTEXTS.items() if context == "." for name in copied(dockerfile)
    }


@each
def test_its_user_can_read_what_was_cloned_with_any_umask(dockerfile: str) -> None:
    opened = [step for stage in stages(dockerfile) for step in stage if "chmod" in step.rest]
    assert [step.word for step in opened] == ["COPY" if dockerfile.startswith("infra/") else "RUN"]
    assert opened[0].rest.startswith("--chmod=0644 ") or opened[0].rest.endswith("chmod -R a+rX /app")
