"""The least limit of open files for commands with many sockets."""

import resource
import sys
from typing import Final

from xksproxy.cli.output import COULD_NOT_RUN, print_error

_LEAST: Final = 64
"""With fewer, a worker cannot read its state, and libraries of the tools end the process without a message."""


def require_open_files() -> None:
    """End the command with a message if this process may have too few open files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _LEAST:
        print_error(
            f"this process may have {limit} open files; expected at least {_LEAST}",
            "raise the limit: ulimit -n, or LimitNOFILE= in the systemd unit",
        )
        sys.exit(COULD_NOT_RUN)
