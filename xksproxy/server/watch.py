"""Detecting that credentials, PINs or certificates have changed on disk, as commands and ACME clients change them."""

from collections.abc import Iterator
from pathlib import Path

from xksproxy.config.credentials import CREDENTIAL_SUFFIX
from xksproxy.config.held_secrets import pin_files
from xksproxy.config.model import Config

Signature = tuple[object, ...]


class FileWatch:
    """Compares the metadata of the files that a configuration names. It does not read the files."""

    def __init__(self, config: Config) -> None:
        """The present metadata is the reference; create the watch before the files are read."""
        tls = config.server.tls
        named = (tls.certificate, tls.private_key, tls.client_ca, *pin_files(config))
        self._files = tuple(path for path in named if path is not None)
        self._directories = tuple(dict.fromkeys(store.credentials for store in config.keystore))
        self._known = self._last = self._signature()

    def changed(self) -> bool:
        """Whether something has changed since this last returned True, and did not change since the previous call.

        So a file that is still being written, or a certificate without its new key, is not used.
        """
        now = self._signature()
        settled = now == self._last
        self._last = now
        if not settled or now == self._known:
            return False
        self._known = now
        return True

    def _signature(self) -> Signature:
        return (
            *(file_signature(path) for path in self._files),
            *(tuple(directory_signature(directory, CREDENTIAL_SUFFIX)) for directory in self._directories),
        )


def file_signature(path: str | Path) -> Signature:
    """The metadata of a file. Symbolic links are followed: certbot and Kubernetes replace the target of a link."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        return (str(error),)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino, status.st_size


def directory_signature(directory: str, suffix: str) -> Iterator[object]:
    """The metadata of the files in a directory whose names end so."""
    try:
        files = sorted(path for path in Path(directory).iterdir() if path.suffix == suffix)
    except (OSError, ValueError) as error:
        yield str(error)
        return
    for path in files:
        yield path.name, file_signature(path)
