"""Why the last change of the configuration is not in use: written by the master, read by every worker."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from xksproxy.runtime_file import read_runtime_file, replace_runtime_file

_NAME: Final = "reload-problem"


def publish(directory: Path, problems: Sequence[str]) -> None:
    """Tell the workers the problems. An empty list means that the configuration that was read last is in use."""
    path = directory / _NAME
    with suppress(OSError):
        if problems:
            replace_runtime_file(path, "; ".join(problems).encode("utf-8", "backslashreplace"))
        else:
            path.unlink(missing_ok=True)


def read(directory: Path) -> str:
    """The problem; empty if there is none."""
    try:
        return read_runtime_file(directory / _NAME).decode()
    except (OSError, UnicodeDecodeError):
        return ""
