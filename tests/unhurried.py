"""The command `xksproxy`, serving without haste: `unhurried.py DEADLINE_MS ARGUMENT ...`.

KMS waits 250 ms, and so no configuration can ask for a longer deadline. A busy machine that runs tests can take longer
for anything; what a test asserts must not depend on that.
"""

import sys
from typing import Any

import msgspec

from xksproxy.cli.main import main
from xksproxy.server import acceptor, worker
from xksproxy.server.pipeline import Pipeline

_HANDSHAKE_SECONDS = 30.0


def _be_unhurried(deadline_ms: int) -> None:
    class UnhurriedPipeline(Pipeline):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._settings = msgspec.structs.replace(self._settings, deadline_ms=deadline_ms)

    worker.Pipeline = UnhurriedPipeline  # type: ignore[misc]
    acceptor.HANDSHAKE_SECONDS = _HANDSHAKE_SECONDS  # type: ignore[misc]


if __name__ == "__main__":
    program, deadline_ms, *arguments = sys.argv
    _be_unhurried(int(deadline_ms))
    sys.argv = ["xksproxy", *arguments]
    main()
