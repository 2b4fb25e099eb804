"""The verdict of the master about a reload, for the command that asked for it, in files of the runtime directory.

The command writes a request before it sends SIGHUP. The master and the workers name this request in their answers.
"""

import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.decoding import decode_json
from xksproxy.encoding import encode_json
from xksproxy.runtime_file import read_runtime_file, replace_runtime_file

_REQUEST: Final = "reload-request"
_VERDICT: Final = "reload-verdict"
_POLL_SECONDS: Final = 0.1


class Verdict(msgspec.Struct, frozen=True):
    """The master's decision about one request."""

    request: str
    problems: tuple[str, ...]
    """Why the old configuration stays in use; empty if the new one is in use."""


def request_reload(runtime: Path) -> str:
    """Write a request, which the next SIGHUP answers.

    Raises:
        OSError: it cannot be written.
    """
    request = secrets.token_hex(8)
    replace_runtime_file(runtime / _REQUEST, request.encode())
    return request


def requested(runtime: Path) -> str:
    """The last request; empty if there was none."""
    try:
        return read_runtime_file(runtime / _REQUEST).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def decide(runtime: Path, verdict: Verdict) -> None:
    """Publish a decision."""
    with suppress(OSError):
        replace_runtime_file(runtime / _VERDICT, encode_json(verdict))


def wait_for_verdict(runtime: Path, request: str, seconds: float) -> Verdict | None:
    """Wait at most ``seconds`` for the decision about a request; None if there is none by then."""
    end = time.monotonic() + seconds
    while True:
        with suppress(OSError, msgspec.MsgspecError):
            verdict = decode_json(read_runtime_file(runtime / _VERDICT), Verdict)
            if verdict.request == request:
                return verdict
        if time.monotonic() >= end:
            return None
        time.sleep(_POLL_SECONDS)
