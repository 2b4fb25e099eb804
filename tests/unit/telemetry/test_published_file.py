"""A file that one process replaces and others read, on file systems that fill up."""

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import small_file_system

from xksproxy.telemetry.published_file import PublishedFile, Unreadable, read_published


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may become larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_readers_get_what_was_written_last(tmp_path: Path) -> None:
    file = PublishedFile(tmp_path / "file", 100)

    for content in (b"first", b"", b"third" * 20, b"x"):
        file.write(content)
        assert read_published(tmp_path / "file") == content


def test_what_is_larger_than_its_space_makes_the_file_larger(tmp_path: Path) -> None:
    file = PublishedFile(tmp_path / "file", 10)
    file.write(b"small")

    file.write(b"l" * 1000)
    file.write(b"small again")

    assert read_published(tmp_path / "file") == b"small again"
    assert names(tmp_path) == ["file"]


def test_after_its_file_was_removed_or_replaced_the_next_content_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = PublishedFile(path, 10)
    file.write(b"first")
    path.unlink()
    file.write(b"second")
    assert read_published(path) == b"second"

    path.unlink()
    path.write_bytes(b"of somebody else")
    file.write(b"third")
    assert read_published(path) == b"third"


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"x" * 1000])
def test_after_its_file_was_overwritten_with_another_size_the_next_content_is_found(
    tmp_path: Path, content: bytes
) -> None:
    file = PublishedFile(tmp_path / "file", 100)
    file.write(b"first")
    (tmp_path / "file").write_bytes(content)

    for next_one in (b"second", b"third"):
        file.write(next_one)
        assert read_published(tmp_path / "file") == next_one


def test_half_of_a_content_is_never_read(tmp_path: Path) -> None:
    """Whatever part of the latest slot is lost, the content before it is whole."""
    path = tmp_path / "file"
    file = PublishedFile(path, 1000)
    contents = [bytes(random.Random(number).randbytes(900)) for number in range(2)]
    for content in contents:
        file.write(content)
    whole = path.read_bytes()
    slot = whole.index(contents[1])
    for position in range(slot - 16, slot + 900, 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        assert read_published(path) == contents[0], position


@pytest.mark.parametrize("content", [b"", b"x", b"\x00" * 200, b"\xff" * 200, b"{}"])
def test_a_file_that_was_never_written_whole_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)

    with pytest.raises(Unreadable):
        read_published(tmp_path / "file")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    PublishedFile(tmp_path / "file", 10).write(b"content")
    (tmp_path / "link").symlink_to("file")

    with pytest.raises(OSError, match="symbolic links"):
        read_published(tmp_path / "link")


def test_its_space_is_taken_before_it_is_used(tmp_path: Path) -> None:
    PublishedFile(tmp_path / "file", 100_000).write(b"small")

    assert 512 * (tmp_path / "file").stat().st_blocks >= 200_000


def test_without_room_the_content_before_stays_and_nothing_is_left_behind(tmp_path: Path) -> None:
    file = PublishedFile(tmp_path / "file", 100)
    file.write(b"before")

    with largest_file(500), pytest.raises(OSError, match="File too large"):
        file.write(b"l" * 1000)

    assert read_published(tmp_path / "file") == b"before"
    assert names(tmp_path) == ["file"]
    file.write(b"after")
    assert read_published(tmp_path / "file") == b"after"


WRITE_WHILE_OTHERS_FILL = """
import sys; from pathlib import Path; from xksproxy.telemetry.published_file import PublishedFile, read_published
directory = Path(sys.argv[1])
file = PublishedFile(directory / "file", 100_000)
file.write(b"first")
try:
    (directory / "filler").write_bytes(bytes(2**22))
except OSError as error:
    print(error.strerror)
for content in (b"a" * 100_000, b"b" * 100_000, b"c" * 100_000):
    file.write(content)
    assert read_published(directory / "file") == content
try:
    PublishedFile(directory / "other", 100_000).write(b"x")
except OSError as error:
    print(error.strerror)
"""


def test_a_file_system_that_fills_up_later_neither_kills_the_writer_nor_loses_its_content() -> None:
    with small_file_system(size=2**20) as directory:
        command = [sys.executable, "-c", WRITE_WHILE_OTHERS_FILL, str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "No space left on device\n" * 2), done.stderr
