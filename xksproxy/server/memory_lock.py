"""Keeps the memory of a process, which has secrets, out of swap where the system permits it."""

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_CAP_IPC_LOCK: Final = 14
_WHOLE_SYSTEM: Final = "0 0 4294967295"
"""The map of user ids of a process that is in no user namespace, where the capability has no effect."""


class MemoryLock:
    """Locks every page that this process uses, as soon as it is used (mlockall(2)). A fork does not inherit it.

    Secrets are in objects of the interpreter and of libraries, which make copies, so no smaller part would do.
    """

    def __init__(self) -> None:
        self.problem = ""
        """Why the memory is not locked; empty if it is, or if :meth:`lock` was not called."""
        self.locked = False
        """Whether it is."""

    def lock(self) -> None:
        """Lock the memory, if RLIMIT_MEMLOCK has no hard limit, or does not apply to this process.

        With a limit, nothing is locked: the lock includes later allocations, and those above the limit would fail.
        """
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if hard != resource.RLIM_INFINITY and not _is_above_the_limit():
            self.problem = f"RLIMIT_MEMLOCK is {hard // 1024} KiB; expected unlimited"
            return
        if hard == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        library = ctypes.CDLL(None, use_errno=True)
        self.locked = library.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
        self.problem = "" if self.locked else f"mlockall: {os.strerror(ctypes.get_errno())}"

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Without the lock for a moment, because freed pages that are locked cannot be given back to the system."""
        if not self.locked:
            yield
            return
        ctypes.CDLL(None).munlockall()
        try:
            yield
        finally:
            self.lock()


def _is_above_the_limit() -> bool:
    """Whether the process has CAP_IPC_LOCK, to which the limit does not apply."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
        user_ids = Path("/proc/self/uid_map").read_text("ascii")
    except OSError:
        return False
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1) and " ".join(user_ids.split()) == _WHOLE_SYSTEM
