"""Folders of a worker's multiprocess files: in memory, each worker's own, and gone with it.

How it works: each worker makes a folder for itself and holds a lock on a file in it, as do its children, which
inherit it. A folder whose lock nobody holds is left over from a worker that was killed, and the next one removes
it. Locks tell the truth where process ids do not: in containers, and after a restart. What has no lock is not
removed with anything in it: where the folders are may be a place that others use too.

What belongs here: making and removing folders. What is in them is prometheus_client's.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (what is made there belongs to this user alone)
_PREFIX = "celery-metrics-"
_LOCK = "lock"


def default_parent() -> Path:
    """Return where workers of this user have their folders: in memory where there is such a place."""
    is_there = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK)
    place = _SHARED_MEMORY if is_there else Path(tempfile.gettempdir())
    return place / f"celery-worker-metrics-{os.geteuid()}"


def make_folder(parent: Path) -> Path:
    """Make a folder for this process and those that it forks; remove what dead workers have left beside it.

    Raises:
        OSError: it cannot be made or written, or `parent` is somebody else's, or a link.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = parent.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{parent} is a link: give the folder that it leads to")
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{parent} belongs to another user")
    with _locked(parent):
        for folder in parent.glob(f"{_PREFIX}*"):
            if not folder.is_symlink():
                _remove_abandoned(folder)
        made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Never closed: this process's end, and its last child's, gives it up.
        lock = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return made


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one worker at a time look at what is abandoned: a folder has no lock at first."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        # A worker that was killed before it had the lock has left nothing in it.
        with suppress(OSError):
            folder.rmdir()
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return  # its worker lives
    finally:
        os.close(descriptor)
