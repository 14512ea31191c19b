"""Folders and files of an instance: who owns them, and through which account a program reaches them.

How it works: started by root, each server runs as its own system account (PostgreSQL refuses root), through
`setpriv`. Its data and configuration belong to that account. A clone under a private home folder (`/root` has
mode 700) cannot be entered by those accounts; only then they get the one capability that lets them read past
folder permissions. Started by anybody else, everything runs as that user.

What belongs here: ownership, permissions, `setpriv`. Nothing about a particular server.
"""

import os
import pwd
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from stack.errors import MachineNotReadyError, StackError
from stack.instance import Instance

_PAST_FOLDER_PERMISSIONS = [
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
    # access(2) ignores capabilities of other users than root without it, and RabbitMQ asks it about its data
    # folder. The new program has the ambient capability and no other all the same (capabilities(7), exec).
    "--securebits=+no_setuid_fixup",
]


def make(instance: Instance) -> None:
    """Make the instance's folders.

    Raises:
        MachineNotReadyError: The state folder, or something in it, is not ours to write.
    """
    for folder, mode in (
        (instance.state, 0o755),
        (instance.state / "data", 0o755),
        (instance.state / "config", 0o755),
        (instance.state / "logs", 0o755),
        (instance.state / "cache", 0o755),
        (instance.run, 0o700),
        (instance.socket.parent, 0o700),
    ):
        try:
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
            folder.chmod(mode)  # whatever the umask; refused when the folder is somebody else's
        except OSError as error:
            raise _not_ours(folder) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise _not_ours(folder)


def make_owned(folder: Path, user: str | None) -> None:
    """Make a private folder that belongs to the account `user` when root runs this.

    Raises:
        MachineNotReadyError: It is not ours to write, or the account does not exist.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        give(folder, user)
        folder.chmod(0o700)
    except OSError as error:
        raise _not_ours(folder) from error


def write_owned(path: Path, text: str, user: str | None) -> None:
    """Write a file that only the account `user` (and root) can read."""
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        give(path, user)
    except OSError as error:
        raise _not_ours(path) from error


def give(path: Path, user: str | None) -> None:
    """Make the account `user` the owner, when root runs this."""
    if user is not None and os.geteuid() == 0:
        entry = account(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def run_as(user: str | None, state: Path, *, death_signal: str) -> list[str]:
    """Return the `setpriv` words that go before a command.

    Args:
        user: The system account to run as when root runs this; None to stay.
        state: The folder that the program must reach.
        death_signal: What the kernel sends the program when its parent dies.

    Raises:
        MachineNotReadyError: The account does not exist.
    """
    words = ["setpriv", "--pdeathsig", death_signal]
    if user is not None and os.geteuid() == 0:
        entry = account(user)
        words += ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups"]
        if not _anybody_can_enter(state):
            words += _PAST_FOLDER_PERMISSIONS
    return [*words, "--"]


def delete_data(instance: Instance) -> list[Path]:
    """Delete data, configuration, logs and settings of a stopped instance; environments and caches stay.

    Returns:
        What was deleted.

    Raises:
        StackError: Something could not be deleted.
    """
    return _delete([instance.state / name for name in ("data", "config", "logs", "run", "env")])


def delete_everything(instance: Instance) -> list[Path]:
    """Delete all that `./stack` makes for an instance, which is stopped, and its folder when that is empty then.

    What somebody else has put there stays: STACK_STATE may be a folder that holds more.

    Returns:
        What was deleted.

    Raises:
        StackError: Something could not be deleted.
    """
    # In this order: an interrupted deletion has lost no secret of data that is still there, and the tool, which
    # runs from its own environment, is there to the end.
    names = ["data", "config", "env", "env.new", "docker.env", "logs", "cache", "bench", "bootstrap"]
    names += ["bootstrap.lock", "venvs", "run"]
    deleted = _delete([*nested(instance), *(instance.state / name for name in names)])
    with suppress(OSError):  # not empty, or a link to a folder elsewhere
        instance.state.rmdir()
        deleted.append(instance.state)
    return deleted


def nested(instance: Instance) -> list[Path]:
    """Return the state folders of test sessions and benchmarks in this one."""
    found = [lock for kind in ("test", "bench") for lock in instance.state.glob(f"{kind}-*/run/lock")]
    return sorted(lock.parents[1] for lock in found)


def _delete(paths: Iterable[Path]) -> list[Path]:
    deleted = []
    for path in paths:
        try:
            if path.is_symlink() or path.is_file():  # a link is removed, never what it points to
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                continue
        except OSError as error:
            raise StackError(
                f"cannot delete {error.filename}: {error.strerror}", hint="delete it as its owner"
            ) from error
        deleted.append(path)
    return deleted


def _anybody_can_enter(folder: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (folder, *folder.parents))


def account(user: str) -> pwd.struct_passwd:
    """Return a system account.

    Raises:
        MachineNotReadyError: It does not exist.
    """
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise MachineNotReadyError(
            f"there is no system account {user!r}, which its Debian package makes",
            hint="install the server from its Debian package, or run ./stack as a user other than root",
        ) from error


def _not_ours(path: Path) -> MachineNotReadyError:
    there = next(place for place in (path, *path.parents) if place.exists())
    try:
        holder = there.owner()
    except KeyError:  # an account that has been removed
        holder = f"uid {there.stat().st_uid}"
    return MachineNotReadyError(
        f"cannot write to {path}: {there} belongs to {holder}",
        hint="run ./stack as that user, or set STACK_STATE to a folder of yours",
    )
