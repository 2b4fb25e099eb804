"""Core dumps of the service's processes: forbidden, unless the configuration permits them."""

import ctypes
import os
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def forbid_core_dumps() -> None:
    """Keep secrets out of core dumps and away from other processes of the same user, in this process and its children.

    Sets RLIMIT_CORE to 0 and PR_SET_DUMPABLE to 0 (prctl(2)). The kernel then neither writes a core file nor gives the
    memory to a core handler or a debugger; root is not affected. :func:`permit_core_dumps` undoes it.

    Raises:
        OSError: the kernel refuses.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    _set_dumpable(0)


def permit_core_dumps() -> None:
    """Allow core dumps up to the hard limit of this process (``[server] core_dumps``).

    Raises:
        OSError: the kernel refuses.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    _set_dumpable(1)


def _set_dumpable(value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"PR_SET_DUMPABLE: {os.strerror(code)}")
