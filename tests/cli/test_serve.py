"""`xksproxy serve` when it cannot start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_it_does_not_start_with_a_configuration_that_cannot_be_used(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("wrokers = 2\n")

    done = run("serve", "--config", tmp_path / "x.toml")

    assert (done.code, done.out) == (2, b"")
    assert done.err.splitlines()[0] == "xksproxy: the configuration cannot be used:"
    assert f"  {tmp_path / 'x.toml'}: wrokers: unknown key" in done.err


def test_a_directory_in_the_place_of_the_file_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    assert run("serve", "--config", tmp_path).code == 2
