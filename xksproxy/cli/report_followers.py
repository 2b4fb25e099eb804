"""The last lines of a command that changed the state: whether the workers use the change."""

import sys
from collections.abc import Callable
from pathlib import Path

from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_line
from xksproxy.server.followers import Worker, wait_for_workers
from xksproxy.state.state_file import StateUnusable


def report_followers(state_directory: Path, follows: Callable[[Worker], bool], *, quiet: bool = False) -> None:
    """Wait until every worker follows, and print that. Exit with code 1 and name the workers that do not say so.

    With ``quiet``, success prints nothing.
    """
    try:
        found = wait_for_workers(state_directory, follows)
    except StateUnusable as error:
        print_error(f"the change is recorded, but it is unknown whether the workers follow it: {error}")
        sys.exit(FOUND_SOMETHING_WRONG)
    if found.behind:
        count = len(found.behind) + len(found.following)
        print_error(
            f"the change is recorded, but {len(found.behind)} of {count} workers do not confirm that they follow it:"
            f" process {', '.join(map(str, found.behind))}",
            "see the log and `xksproxy status` for the reason; to stop all use of the keys now, stop the proxy",
        )
        sys.exit(FOUND_SOMETHING_WRONG)
    if quiet:
        return
    if found.following:
        print_line(f"every worker of this machine follows: process {', '.join(map(str, found.following))}")
    else:
        print_line("no proxy runs on this machine with this state directory; the next one that starts uses the change")
