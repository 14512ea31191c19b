"""Folders: private where they must be, and reached through the account that a server runs as."""

import os
import stat
from pathlib import Path

import pytest

from stack import folders
from stack.errors import MachineNotReadyError
from stack.instance import Instance

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs as another account")


def instance(state: Path) -> Instance:
    return Instance(repository=state.parent, state=state, values={})


def test_the_run_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folders.make(instance(tmp_path / "state"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state" / "run").stat().st_mode) == 0o700


def test_the_data_folders_can_be_entered_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folders.make(instance(tmp_path / "state"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state" / "data").stat().st_mode) == 0o755


def test_a_written_file_is_private_and_replaces_a_public_one(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("old")
    path.chmod(0o666)
    folders.write_owned(path, "new", user=None)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@needs_root
def test_root_gives_up_its_rights_and_keeps_a_capability_only_where_a_folder_is_closed(tmp_path: Path) -> None:
    open_state = Path("/tmp")
    closed_state = tmp_path / "closed" / "state"
    closed_state.mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    plain = folders.run_as("nobody", open_state, death_signal="TERM")
    assert "--reuid" in plain
    assert "--clear-groups" in plain
    assert not [word for word in plain if "caps" in word]
    assert "--ambient-caps=+dac_read_search" in folders.run_as("nobody", closed_state, death_signal="TERM")


@needs_root
def test_an_account_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(MachineNotReadyError, match="no-such-account"):
        folders.run_as("no-such-account", tmp_path, death_signal="TERM")


def test_without_an_account_nothing_changes_but_the_death_signal(tmp_path: Path) -> None:
    assert folders.run_as(None, tmp_path, death_signal="QUIT") == ["setpriv", "--pdeathsig", "QUIT", "--"]
