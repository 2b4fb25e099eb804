"""Whether the configuration file and the policies are still as they were accepted, for operators."""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.authorization.policies import POLICY_SUFFIX, read_sources
from xksproxy.config.regular_file import FileRefused, read_regular_file
from xksproxy.decoding import decode_json
from xksproxy.encoding import encode_json
from xksproxy.runtime_file import read_runtime_file, replace_runtime_file
from xksproxy.server.accepted import Accepted
from xksproxy.server.watch import directory_signature, file_signature

_NAME: Final = "accepted-configuration"
_LOOK_SECONDS: Final = 2.0
_MOST_BYTES: Final = 64 * 1024 * 1024


class AcceptedState(msgspec.Struct, frozen=True):
    """What the master says about the accepted configuration. Times are seconds since 1970."""

    number: int
    accepted_at: float
    differing: tuple[str, ...] = ()
    """The files and directories whose content is another one by now."""

    differ_since: float | None = None
    """When this was seen first; None if nothing differs."""


def read_accepted_state(runtime: Path) -> AcceptedState | None:
    """What the master has published last; None if it cannot be read."""
    with suppress(OSError, msgspec.MsgspecError):
        return decode_json(read_runtime_file(runtime / _NAME), AcceptedState)
    return None


def content_digest(path: Path) -> str:
    """SHA-256 of the content of a configuration file; empty if it cannot be read."""
    try:
        return hashlib.sha256(read_regular_file(path, _MOST_BYTES).content).hexdigest()
    except FileRefused:
        return ""


class AcceptedFiles:
    """Compares the files with what was accepted, and publishes the result for the workers. Belongs to the master."""

    def __init__(self, config_file: Path) -> None:
        self._config_file = config_file
        self._due = -math.inf
        self._compared: object = None
        self._state: AcceptedState | None = None

    def digest(self) -> str:
        """That of the configuration file. Call it before the file is loaded."""
        return content_digest(self._config_file)

    def follow(self, accepted: Accepted, runtime: Path) -> None:
        """Publish what differs; it looks every two seconds, and when something else was accepted."""
        now, before = time.monotonic(), self._state
        is_new = before is None or before.number != accepted.number
        if not is_new and now < self._due:
            return
        self._due = now + _LOOK_SECONDS
        metadata = accepted.number, *self._metadata(accepted)
        if metadata == self._compared:
            return
        differing = tuple(self._differing(accepted))
        since = None if not differing else (not is_new and before and before.differ_since) or time.time()
        state = AcceptedState(accepted.number, accepted.at, differing, since)
        with suppress(OSError):
            replace_runtime_file(runtime / _NAME, encode_json(state))
            self._compared, self._state = metadata, state

    def _metadata(self, accepted: Accepted) -> Iterator[object]:
        yield file_signature(str(self._config_file))
        for path in dict.fromkeys(path for paths in accepted.policies for path in paths):
            yield file_signature(path)
            yield directory_signature(path, POLICY_SUFFIX)

    def _differing(self, accepted: Accepted) -> Iterator[str]:
        if self.digest() != accepted.file_digest:
            yield str(self._config_file.absolute())
        for paths, policies in accepted.policies.items():
            if read_sources(paths) != policies.sources:
                yield from paths
