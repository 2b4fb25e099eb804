"""The space that is kept for a block while the disk is full."""

import os
from pathlib import Path

from xksproxy.state.reserve import keep_reserve


def test_space_is_kept(tmp_path: Path) -> None:
    keep_reserve(tmp_path)

    assert (tmp_path / "reserve").stat().st_size == 256 * 1024


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "reserve", 0o600)

    keep_reserve(tmp_path)  # which would never return


def test_nothing_is_written_through_a_hard_link_in_its_place(tmp_path: Path) -> None:
    other = tmp_path / "blocks-a.json"
    other.write_text("{}")
    other.chmod(0o600)
    (tmp_path / "reserve").hardlink_to(other)

    keep_reserve(tmp_path)

    assert other.read_text() == "{}"
