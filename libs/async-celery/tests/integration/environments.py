"""Python environments for what must not be in the tests' own: old workers, Flower, an installed wheel.

How it works: each is made with uv from a lock in `locks/`, in pytest's cache folder, and stays there until the
lock changes. A lock is made, here from what a user of Celery 5.3 would install, by

    echo 'celery[redis]>=5.3,<5.4  kombu>=5.3,<5.4' | tr -s ' ' '\\n' | uv pip compile - --universal \\
        --generate-hashes --python-version 3.11 -q --no-emit-index-url --no-header --no-annotate \\
        -o locks/celery-5.3.lock

and so are `flower.lock` (flower>=2,<3 and our Celery), and `wheel.lock` (the dependencies in pyproject.toml,
setuptools to build with, celery-types to check types with).

What belongs here: making environments. What is run in them stands in the tests.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).parent / "locks"


class Environments:
    """Environments by the names of their locks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def python(self, name: str) -> Path:
        """Return the Python of an environment that holds what its lock says; make it where there is none."""
        folder, lock = self._folder / name, LOCKS / f"{name}.lock"
        stamp = hashlib.sha256(f"{sys.version}{lock.read_text()}".encode()).hexdigest()
        stamp_file = folder / "stamp"
        if not (stamp_file.exists() and stamp_file.read_text() == stamp):
            shutil.rmtree(folder, ignore_errors=True)
            uv("venv", str(folder), "--python", sys.executable)
            uv("pip", "install", "--python", str(python_in(folder)), "--require-hashes", "-r", str(lock))
            # Last, so that what was interrupted is made anew.
            stamp_file.write_text(stamp)
        return python_in(folder)


def python_in(environment: Path) -> Path:
    return environment / "bin" / "python"


def uv(*words: str) -> None:
    """Run uv: the one on the path, or the one that `./stack` installed beside the environments it makes."""
    beside = Path(sys.prefix).parents[1] / "bootstrap" / "bin"
    program = shutil.which("uv", path=f"{os.environ['PATH']}{os.pathsep}{beside}")
    assert program is not None, f"uv is needed, on the path or in {beside}: pip install uv"
    done = subprocess.run([program, "-q", *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"uv {' '.join(words)}:\n{done.stderr}"
