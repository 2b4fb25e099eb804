"""Damage files of every kind many times, and read them: ``python -m benchmarks.mutations [COUNT]``.

The test suite does the same 2,000 times for most kinds of file. An answer is a file that is read, or a message.
"""

import os
import subprocess
import sys
from typing import Final

_COUNT: Final = "100000"
_TEST: Final = "tests/cli/test_mutated_files.py"


def main() -> None:
    """Run the test with the wanted number of examples, and exit with its exit code."""
    count = sys.argv[1] if len(sys.argv) > 1 else _COUNT
    command = [sys.executable, "-m", "pytest", "--timeout", "0", _TEST]
    sys.exit(subprocess.run(command, env={**os.environ, "XKSPROXY_MUTATIONS": count}, check=False).returncode)


if __name__ == "__main__":
    main()
