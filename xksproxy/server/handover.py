"""Gives what the master has accepted to workers that run, in memory that the master shares with them."""

import hashlib
import os
import pickle
import struct
from typing import Final

from xksproxy.authorization.policies import PolicyLibrary
from xksproxy.config.errors import ConfigError
from xksproxy.server.accepted import Accepted, UsableFiles
from xksproxy.server.shared_number import SharedNumber

_HEADER: Final = struct.Struct("=qq32s")
"""The number, the length of the content, and its SHA-256."""

_TRIES: Final = 100


class Handover:
    """Holds the configuration that was accepted last, with the content of its files. Made before workers are started.

    Its secrets are in anonymous memory, never in a file system. Only the master publishes. Numbers alternate between
    two areas, so that a worker can read one while the master writes the next.
    """

    def __init__(self) -> None:
        self._areas = [os.memfd_create("xksproxy-accepted", os.MFD_CLOEXEC) for _ in range(2)]
        self._number = SharedNumber()

    def close(self) -> None:
        """Give the memory back. Nobody can take anything afterwards."""
        for area in self._areas:
            os.close(area)

    @property
    def number(self) -> int:
        """The number of the configuration that was published last; 0 before the first."""
        return self._number.value

    def publish(self, accepted: Accepted) -> None:
        """Make a configuration the one that workers take."""
        sources = {paths: policies.sources for paths, policies in accepted.policies.items()}
        files = accepted.files.credentials, accepted.files.contents
        origin = accepted.config, accepted.number, accepted.request, accepted.at, accepted.file_digest
        content = pickle.dumps((origin, sources, *files))
        area = self._areas[accepted.number % 2]
        os.ftruncate(area, 0)
        data = _HEADER.pack(accepted.number, len(content), hashlib.sha256(content).digest()) + content
        written = 0
        while written < len(data):
            written += os.pwrite(area, data[written:], written)
        self._number.value = accepted.number

    def take(self, library: PolicyLibrary) -> Accepted:
        """The configuration that was published last. ``library`` compiles its policies.

        Raises:
            ConfigError: it cannot be read, or its policies, certificate or key cannot be used in this process.
        """
        for _ in range(_TRIES):
            content = self._read(self.number)
            if content is not None:
                # Only the master, from which this process was forked, can write to this memory.
                origin, sources, credentials, contents = pickle.loads(content)  # noqa: S301
                for paths, texts in sources.items():
                    library.stage_sources(paths, texts)
                config, number, request, at, digest = origin
                files = UsableFiles.of(config, credentials, contents)
                return Accepted(config, number, request, at, digest, library.take_staged(), files)
        raise ConfigError(["the configuration that the master has accepted cannot be read"])

    def _read(self, number: int) -> bytes | None:
        """The content of a number; None if another one is being written in its place."""
        area = self._areas[number % 2]
        head = os.pread(area, _HEADER.size, 0)
        if len(head) < _HEADER.size:
            return None
        found, length, digest = _HEADER.unpack(head)
        content = b""
        while len(content) < length and (part := os.pread(area, length - len(content), _HEADER.size + len(content))):
            content += part
        if found != number or hashlib.sha256(content).digest() != digest:
            return None
        return content
