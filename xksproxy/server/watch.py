"""Detecting that credentials, PINs or certificates have changed on disk, as commands and ACME clients change them."""

import os
from hashlib import blake2b
from typing import Final

from xksproxy.config.credentials import CREDENTIAL_SUFFIX
from xksproxy.config.held_secrets import pin_files
from xksproxy.config.model import Config
from xksproxy.server.round_robin import RoundRobin
from xksproxy.state.directory_changes import DirectoryChanges

_LOOKED_AT_ANYWAY: Final = 4

Signature = bytes
"""A digest of metadata, which takes a fraction of its memory: there is one for each directory of credentials."""


class FileWatch:
    """Compares the metadata of the files that a configuration names. It does not read the files.

    Certificates and PINs are looked at each time. Directories of credentials are when inotify reports a change, when
    they cannot be watched, and a few of them each time in turn.
    """

    def __init__(self, config: Config) -> None:
        """The present metadata is the reference; create the watch before the files are read."""
        tls = config.server.tls
        named = (tls.certificate, tls.private_key, tls.client_ca, *pin_files(config))
        self._files = frozenset(path for path in named if path is not None)
        self._directories = dict.fromkeys(store.credentials for store in config.keystore)
        self._changes = DirectoryChanges(self._directories)
        self._round = RoundRobin(_LOOKED_AT_ANYWAY)
        self._known = {path: self._signature(path) for path in (*self._files, *self._directories)}
        self._last = dict(self._known)
        self._differing: set[str] = set()
        """What was not as it is known when it was last looked at."""

    def changed(self) -> bool:
        """Whether something has changed since this last returned True, and did not change since the previous call.

        So a file that is still being written, or a certificate without its new key, is not used.
        """
        settled = True
        for path in self._due():
            now = self._signature(path)
            settled = settled and now == self._last[path]
            self._last[path] = now
            (self._differing.discard if now == self._known[path] else self._differing.add)(path)
        if not settled or not self._differing:
            return False
        self._known.update((path, self._last[path]) for path in self._differing)
        self._differing.clear()
        return True

    def _due(self) -> set[str]:
        reported = self._changes.take()
        if reported is None:
            return {*self._files, *self._directories}
        directories = {directory for directory, _ in reported} | self._changes.unwatched
        return {*self._files, *directories, *self._differing, *self._round.next(self._directories)}

    def _signature(self, path: str) -> Signature:
        if path in self._files:
            return file_signature(path)
        return directory_signature(path, CREDENTIAL_SUFFIX)


def file_signature(path: str) -> Signature:
    """The metadata of a file. Symbolic links are followed: certbot and Kubernetes replace the target of a link."""
    try:
        status = os.stat(path)  # noqa: PTH116 - many are looked at
    except (OSError, ValueError) as error:
        return _digest(str(error))
    return _digest(status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino, status.st_size)


def directory_signature(directory: str, suffix: str) -> Signature:
    """The metadata of the files in a directory whose names end so."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(suffix))  # noqa: PTH208 - many are read
    except (OSError, ValueError) as error:
        return _digest(str(error))
    return _digest(*((name, file_signature(f"{directory}/{name}")) for name in names))


def _digest(*metadata: object) -> Signature:
    return blake2b(repr(metadata).encode(), digest_size=16).digest()
