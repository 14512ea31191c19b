"""Locks: what `pip install -r requirements.txt` installs is what the locks say."""

import tomllib
from pathlib import Path

import pytest

from stack import locks

ROOT = Path(__file__).parents[3]

LOCK = """\
amqp==5.4.2 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:cc
uvicorn==0.51.0
"""


def test_pins_have_markers_and_no_hashes() -> None:
    assert locks.pins(LOCK) == ["amqp==5.4.2", "colorama==0.4.6 ; sys_platform == 'win32'", "uvicorn==0.51.0"]


@pytest.mark.parametrize("project", locks.PROJECTS)
def test_requirements_txt_names_the_locks_versions_and_our_libraries(project: str) -> None:
    folder = ROOT / project
    text = (folder / "requirements.txt").read_text()
    assert text == locks.without_hashes((folder / "requirements.lock").read_text()), "run ./stack lock"
    folders = [line for line in text.splitlines() if line.startswith("../")]
    assert len(folders) == 3
    assert all((folder / line / "pyproject.toml").is_file() for line in folders)


@pytest.mark.parametrize("lock", [*locks.LOCKS, *locks.ALONE, *locks.BENCHMARKS], ids=lambda lock: lock.path)
def test_every_pin_has_a_hash_and_no_address_is_in_it(lock: locks.Lock) -> None:
    text = (ROOT / lock.path).read_text()
    assert "://" not in text
    assert locks.pins(text)
    blocks = text.replace("\\\n", " ").splitlines()
    assert all("==" in block and "--hash=sha256:" in block for block in blocks if block)


def test_shared_packages_have_one_version() -> None:
    seen: dict[str, set[str]] = {}
    for lock in locks.LOCKS:
        for pin in locks.pins((ROOT / lock.path).read_text()):
            name, _, rest = pin.partition("==")
            version, _, marker = rest.partition(" ;")  # a package may have one version for each Python
            seen.setdefault(f"{name}{marker}", set()).add(version)
    assert {name: versions for name, versions in seen.items() if len(versions) > 1} == {}


@pytest.mark.parametrize("lock", [*locks.LOCKS, *locks.ALONE, *locks.BENCHMARKS], ids=lambda lock: lock.path)
def test_every_direct_dependency_is_locked(lock: locks.Lock) -> None:
    pinned = {pin.partition("==")[0] for pin in locks.pins((ROOT / lock.path).read_text())}
    for source in lock.sources:
        text = (ROOT / source).read_text()
        wanted = (
            tomllib.loads(text)["project"]["dependencies"]
            if source.endswith(".toml")
            else [line.partition("#")[0] for line in text.splitlines()]
        )
        names = {"".join(c if c.isalnum() or c in "-_." else " " for c in word).split(" ")[0] for word in wanted}
        assert names - {""} <= pinned, "run ./stack lock"
