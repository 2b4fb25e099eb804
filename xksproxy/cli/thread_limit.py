"""Whether the system lets the workers have their threads."""

import _thread
import os
import sys
from typing import Final

from xksproxy.cli.output import COULD_NOT_RUN, print_error
from xksproxy.config.model import Config
from xksproxy.config.resource_checks import THREADS_BESIDE_SESSIONS

_STACK_BYTES: Final = 64 * 2**10


def require_threads(config: Config) -> None:
    """End the command with a message if the workers cannot have the threads that they need.

    Limits of a user, a control group and a container count threads of others too, so it is tried.
    """
    sessions = sum(hsm.sessions for hsm in config.hsm)
    needed = config.server.workers * (THREADS_BESIDE_SESSIONS + sessions)
    if not may_start(needed):
        print_error(
            f"this process cannot start the {needed} threads that {config.server.workers} workers with {sessions} HSM"
            " sessions each need",
            "raise the limit: ulimit -u, or TasksMax= in the systemd unit; pids.max of a container; or ulimit -v",
        )
        sys.exit(COULD_NOT_RUN)


def may_start(count: int) -> bool:
    """Whether so many threads can be started. A child process tries it, so that this one keeps none of their memory."""
    try:
        process = os.fork()
    except OSError:
        return False
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    try:
        _start(count)
    except BaseException:  # noqa: BLE001 - the child must not go on as this program
        os._exit(1)
    os._exit(0)


def _start(count: int) -> None:
    """Start threads that wait for ever.

    ``Thread.start`` would wait for ever for a thread that has no memory to say that it runs. These need none.
    """
    _thread.stack_size(_STACK_BYTES)
    locked = _thread.allocate_lock()
    locked.acquire()
    for _ in range(count):
        _thread.start_new_thread(locked.acquire, ())
