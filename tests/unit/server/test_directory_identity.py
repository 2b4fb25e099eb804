"""Whether a directory is recognised as the one that was there before."""

from collections.abc import Callable
from pathlib import Path

import pytest

from xksproxy.server.directory_identity import DirectoryIdentity, StateIdentity


def replace_by_an_empty_one(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))
    directory.mkdir()


def replace_by_a_link(directory: Path) -> None:
    (other := directory.with_name("other")).mkdir()
    directory.rmdir()
    directory.symlink_to(other)


@pytest.mark.parametrize("change", [Path.rmdir, replace_by_an_empty_one, replace_by_a_link])
def test_a_directory_that_was_removed_or_replaced_is_lost(tmp_path: Path, change: Callable[[Path], None]) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    identity = DirectoryIdentity(directory)
    before = identity.is_lost

    change(directory)

    assert not before
    assert identity.is_lost


def test_a_directory_that_is_moved_back_is_the_same(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    state = StateIdentity(directory)
    moved = directory.rename(tmp_path / "elsewhere")
    assert "was removed, moved away or replaced" in state.problem

    moved.rename(directory)

    assert state.problem == ""


def test_one_that_comes_later_is_the_first_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "state"
    state = StateIdentity(directory)
    missing = state.problem
    (tmp_path / "file").unlink()
    directory.mkdir(parents=True)
    come = state.problem
    directory.rmdir()

    assert (missing, come) == ("", "")
    assert "was removed" in state.problem
