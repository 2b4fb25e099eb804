"""The service starts only if its workers can have their threads."""

import subprocess
import sys

_PROGRAM = """
import resource
from xksproxy.cli.thread_limit import may_start
for pages in range(30):
    resource.setrlimit(resource.RLIMIT_AS, (2**30 - 4096 * pages, 2**30))
    print(may_start(10), may_start(100_000))
"""


def test_it_is_tried_whether_threads_can_be_started() -> None:
    """Memory ends at another moment in each round. ``Thread.start`` would not return in about one of six."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=120)

    assert (done.stdout, done.stderr) == ("True False\n" * 30, "")
