"""Where the workers of one service share what is true only while it runs: metrics, views, quotas."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
_PREFIX: Final = "xksproxy-"


def make_runtime_directory() -> Path:
    """Make a private directory that goes with this process, in memory if there is any.

    The files in it are mapped: on a disk that is full, writing to one kills the writer by SIGBUS. systemd's
    RuntimeDirectory is in memory, and so is /dev/shm.

    Raises:
        OSError: there is no room for it.
    """
    parent = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if not parent and os.access(_MEMORY, os.W_OK | os.X_OK):
        parent = str(_MEMORY)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent or None))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return directory
