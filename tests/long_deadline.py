"""The command `xksproxy`, serving without haste: `long_deadline.py DEADLINE_MS BODY_MS ARGUMENT ...`.

KMS waits 250 ms, and so no configuration can ask for a longer deadline. A busy machine that runs tests can take longer
for anything; what a test asserts must not depend on that. A body has a deadline of its own here, of BODY_MS.
"""

import sys
from typing import Any

import msgspec

from xksproxy.cli.main import main
from xksproxy.deadline import Deadline
from xksproxy.server import pipeline, worker
from xksproxy.server.http import tls_connection
from xksproxy.server.http.messages import Request
from xksproxy.server.request_body import read_body

_HANDSHAKE_SECONDS = 30.0


def be_unhurried(deadline_ms: int, body_ms: int) -> None:
    """Give the requests that this process will serve so much time."""

    class UnhurriedPipeline(pipeline.Pipeline):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._settings = msgspec.structs.replace(self._settings, deadline_ms=deadline_ms)

    async def read_body_unhurried(request: Request, _: Deadline) -> bytes:
        return await read_body(request, Deadline.after(body_ms / 1000))

    worker.Pipeline = UnhurriedPipeline  # type: ignore[misc]
    pipeline.read_body = read_body_unhurried
    tls_connection.HANDSHAKE_SECONDS = _HANDSHAKE_SECONDS  # type: ignore[misc]


if __name__ == "__main__":
    _, deadline_ms, body_ms, *arguments = sys.argv
    be_unhurried(int(deadline_ms), int(body_ms))
    sys.argv = ["xksproxy", *arguments]
    main()
