"""The wheel: built, installed where nothing of this repository is, imported, type-checked by a user's mypy."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from .environments import Environments, uv

LIBRARY = Path(__file__).parents[2]
PACKAGE = LIBRARY / "src" / "async_celery"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the library's dependencies, but not yet the library."""
    return Environments(tmp_path_factory.mktemp("environments")).python("wheel")


@pytest.fixture(scope="module")
def wheel(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: setuptools leaves its work beside what it builds, and would find it again.
    not_source = shutil.ignore_patterns("tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(LIBRARY, folder / "source", ignore=not_source)
    uv(
        *("build", "--wheel", "--no-build-isolation", "--python", str(python)),
        *("--out-dir", str(folder), str(folder / "source")),
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(python: Path, wheel: Path) -> Iterator[Path]:
    """The Python of the same environment, now with the library."""
    uv("pip", "install", "--python", str(python), "--no-deps", "--no-index", str(wheel))
    yield python


def test_all_of_the_package_and_nothing_else_is_inside(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix in (".py", ".typed")}
    assert inside == {path.relative_to(PACKAGE.parent).as_posix() for path in sources}
    assert "async_celery/py.typed" in inside


def test_the_metadata_is_complete(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata: Message = Parser().parsestr(archive.read(name).decode())
        assert name.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    assert metadata["Name"] == "async-celery"
    assert (metadata["License-Expression"], metadata["License-File"]) == ("MIT", "LICENSE")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (LIBRARY / "README.md").read_text()
    assert "Typing :: Typed" in (metadata.get_all("Classifier") or [])
    # What changed in this version is told.
    assert f"## {metadata['Version']}" in (LIBRARY / "CHANGELOG.md").read_text()


def test_it_is_imported_from_where_it_was_installed(installed: Path, tmp_path: Path) -> None:
    uv("pip", "check", "--python", str(installed))
    program = "import async_celery, async_celery.testing; print(async_celery.__file__)"
    done = run([str(installed), "-I", "-W", "error", "-c", program], tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed.parents[1])


USER = """
from typing import assert_type

from async_celery import AsyncCelery, TaskHandle


async def use(client: AsyncCelery) -> None:
    handle = await client.send_task("add", (1, 2), queue="q", result_type=int)
    assert_type(handle, TaskHandle[int])
    assert_type(await handle.result(timeout=1), int)
    await client.send_task("add")
"""


def test_a_users_type_check_sees_its_types(
    installed: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert request.config.cache is not None
    cache = request.config.cache.mkdir("async-celery-mypy")
    (tmp_path / "user.py").write_text(USER)
    options = ["--strict", "--cache-dir", str(cache), "--python-executable", str(installed)]
    done = run([sys.executable, "-m", "mypy", *options, "user.py"], tmp_path)
    # The one error is the last line's: it names no queue.
    assert 'No overload variant of "send_task"' in done.stdout, done.stdout + done.stderr
    assert "Found 1 error in 1 file" in done.stdout, done.stdout


def run(command: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
