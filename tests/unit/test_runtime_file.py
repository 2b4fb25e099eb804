"""Small files that several processes replace."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xksproxy.runtime_file import MAXIMUM_BYTES, read_runtime_file, replace_runtime_file


def test_writers_at_the_same_moment_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]

    def write(content: bytes) -> None:
        for _ in range(50):
            replace_runtime_file(tmp_path / "file", content)
            assert (tmp_path / "file").read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_replaced_stays_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()

    with pytest.raises(OSError, match="directory"):
        replace_runtime_file(tmp_path / "file", b"content")

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_pipe_or_a_link_in_its_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")

    for name in ("pipe", "link"):
        with pytest.raises(OSError, match=name):
            read_runtime_file(tmp_path / name)


def test_a_file_with_more_than_any_process_writes_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(MAXIMUM_BYTES)
    assert len(read_runtime_file(tmp_path / "file")) == MAXIMUM_BYTES

    with (tmp_path / "file").open("ab") as file:
        file.write(b"x")

    with pytest.raises(OSError, match="more than 67108864 bytes"):
        read_runtime_file(tmp_path / "file")
