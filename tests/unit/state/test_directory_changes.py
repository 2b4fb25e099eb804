"""What inotify reports of directories, and what it cannot."""

from pathlib import Path

import pytest

from xksproxy.state.directory_changes import DirectoryChanges


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "watched"
    made.mkdir()
    (made / "old").write_text("old")
    return made


def test_each_kind_of_change_is_reported_once(directory: Path) -> None:
    changes = DirectoryChanges([directory])
    at = str(directory)
    assert changes.take() == set()

    (directory / "new").write_text("new")
    assert changes.take() == {(at, "new")}
    (directory / "new").rename(directory / "old")
    assert changes.take() == {(at, "new"), (at, "old")}
    (directory / "old").chmod(0o400)
    assert changes.take() == {(at, "old")}
    (directory / "old").unlink()
    assert changes.take() == {(at, "old")}
    assert changes.take() == set()
    assert changes.unwatched == set()


def test_more_changes_than_the_kernel_keeps_are_said_to_be_unknown(directory: Path) -> None:
    changes = DirectoryChanges([directory])
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(most + 10):
        (directory / str(number % 2)).write_text("")

    assert changes.take() is None
    assert changes.take() == set()


def test_a_directory_that_is_replaced_is_watched_no_more(directory: Path) -> None:
    changes = DirectoryChanges([directory])
    directory.rename(directory.with_name("elsewhere"))
    directory.mkdir()

    assert changes.take() == {(str(directory), "")}
    assert changes.unwatched == {str(directory)}


def test_links_and_missing_directories_are_not_watched(directory: Path) -> None:
    link = directory.with_name("link")
    link.symlink_to(directory)
    names = [str(link), str(directory / "missing"), "a\0b"]

    changes = DirectoryChanges(names)

    assert changes.unwatched == set(names)
    assert changes.take() == set()
