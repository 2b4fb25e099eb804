"""Where the audit log is written: standard output, or a file that may be renamed."""

import errno
import logging
import os
import stat
import threading
import time
from pathlib import Path
from typing import Final

from xksproxy.config.regular_file import DEVICE, kind_of
from xksproxy.config.secret import sync_directory
from xksproxy.telemetry.whole_lines import first_lines, write_first_lines

_log: Final = logging.getLogger(__name__)
_STANDARD_OUTPUT: Final = 1
_MOST_BYTES: Final = 65_536
"""So many bytes are written to a file at once."""

_AGAIN_SECONDS: Final = 1.0
_WRITTEN_SECONDS: Final = 0.05
"""Longer than another process takes for one write."""

_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
_MODE: Final = 0o640


class AuditSink:
    """Standard output, or a file. If the file is renamed, as logrotate does, it is opened again."""

    def __init__(self, path: Path | None, *, syncs_each_write: bool = False) -> None:
        """With ``syncs_each_write``, :meth:`write` waits for the disk."""
        self._path = path
        self._syncs_each_write = syncs_each_write
        self._all_on_disk = True
        """Whether no sync failed since the last write began."""
        self._descriptor = _STANDARD_OUTPUT
        self._identity: tuple[int, int] | None = None
        self._begins_in_a_line = False
        """Whether the file ends with the beginning of a line, which a full disk or a killed process has left."""
        self.broken = False
        """Whether the last lines could not be written."""
        self.reason = ""
        """Why the last lines could not be written."""
        self.has_written = False
        """Whether lines were ever written."""
        self._opening = threading.Lock()
        """Held while the file is opened or closed: another thread syncs it."""
        self._unsynced = False
        self._sync_failed = False
        self._waits_since: float | None = None
        """When the bytes began to wait that are to be written next, on the monotonic clock. None if there are none."""

    @property
    def stuck_seconds(self) -> float:
        """For how many seconds bytes have waited while none was written. May be called on any thread."""
        since = self._waits_since
        return 0.0 if since is None else time.monotonic() - since

    def write(self, data: bytes) -> bool:
        """Write all of ``data``, which are lines. After an error, try again every second until it is written.

        Other processes write to the same file, so each write has whole lines. If the disk is full in the middle of one,
        its beginning stays, and it is written again on a line of its own.

        Returns whether the lines outlive a power failure. After a failed sync they may not, although the next sync
        succeeds: the kernel reports an error once. Then call :meth:`sync_until_it_succeeds`.
        """
        self._waits_since, self._all_on_disk = time.monotonic(), self._syncs_each_write
        while data:
            try:
                written = self._write_some(data)
            except OSError as error:
                if not self.broken:
                    _log.error("audit log cannot be written", extra={"fields": {"reason": str(error)}})
                self._note_failure(error)
                time.sleep(_AGAIN_SECONDS)
            else:
                data, self._unsynced, self.broken = data[written:], True, False
                self._waits_since = time.monotonic()
        if self._syncs_each_write:
            self._sync_write()
        else:
            self._note_success()
        return self._all_on_disk

    def sync_until_it_succeeds(self) -> None:
        """After a failed sync of a write, try again every second."""
        while self._syncs_each_write and self._unsynced:
            time.sleep(_AGAIN_SECONDS)
            self._sync_write()

    def _sync_write(self) -> None:
        try:
            os.fdatasync(self._descriptor if self._identity or self._path is None else self._current(self._path))
        except OSError as error:
            self._all_on_disk = False
            if not self.broken:
                _log.error("audit log cannot be synced", extra={"fields": {"reason": str(error)}})
            self._note_failure(error)
        else:
            self._unsynced = False
            self._note_success()

    def _note_success(self) -> None:
        self.has_written, self.broken, self._waits_since = True, False, None

    def _note_failure(self, error: OSError) -> None:
        self.broken, self.reason, self._identity = True, error.strerror or str(error), None

    def sync(self) -> None:
        """Sync the file if something was written to it since. Standard output is not synced."""
        with self._opening:
            # A sync on another thread would take the error that a sync of :meth:`write` has to see.
            if self._syncs_each_write or not self._unsynced or self._descriptor == _STANDARD_OUTPUT:
                return
            self._unsynced = False
            descriptor = os.dup(self._descriptor)
        try:
            self._sync(descriptor)
        finally:
            os.close(descriptor)

    def _sync(self, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            # A pipe or a device cannot be synced.
            self._all_on_disk = False
            if error.errno not in (errno.EINVAL, errno.EROFS) and not self._sync_failed:
                _log.error("audit log cannot be synced", extra={"fields": {"reason": error.strerror}})
                self._sync_failed = True
        else:
            self._sync_failed = False

    def _write_some(self, data: bytes) -> int:
        """Write the first lines, and return how many bytes of ``data`` need not be written again."""
        start = b"\n" if self._begins_in_a_line else b""
        if self._path is None:
            size, written = write_first_lines(_STANDARD_OUTPUT, start + data)
            self._begins_in_a_line = written < size
            return data.rfind(b"\n", 0, max(0, written - len(start))) + 1
        descriptor = self._current(self._path)
        start = b"\n" if self._begins_in_a_line else b""
        lines = first_lines(data, _MOST_BYTES)
        written = os.write(descriptor, start + lines) - len(start)
        self._begins_in_a_line = False
        if written < len(lines):
            self._identity = None  # it is opened again, and what is at its end is looked at
        return lines.rfind(b"\n", 0, max(0, written)) + 1

    def _current(self, path: Path) -> int:
        try:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
        except FileNotFoundError:
            identity = None
        if identity is None or identity != self._identity:
            self._open(path)
        return self._descriptor

    def _open(self, path: Path) -> None:
        with self._opening:
            if self._descriptor != _STANDARD_OUTPUT:
                self._sync(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = _STANDARD_OUTPUT
            self._open_new(path)

    def _open_new(self, path: Path) -> None:
        if (kind := kind_of(path)) not in ("", DEVICE):
            raise OSError(errno.EINVAL, f"{path} is {kind}")
        try:
            self._descriptor = os.open(path, _APPEND | os.O_CREAT | os.O_EXCL, _MODE)
        except FileExistsError:
            self._descriptor = os.open(path, _APPEND)
        else:
            # The unit's umask is 0077, but the group of the service may read its audit log.
            os.fchmod(self._descriptor, _MODE)
        if self._syncs_each_write:
            sync_directory(path.parent)
        status = os.fstat(self._descriptor)
        self._identity = (status.st_dev, status.st_ino)
        self._begins_in_a_line = stat.S_ISREG(status.st_mode) and _ends_in_a_line(path)


def _ends_in_a_line(path: Path) -> bool:
    """Whether the last line of a file is incomplete, also a moment later: another process may be writing it."""
    if _last_byte(path) in (b"", b"\n"):
        return False
    time.sleep(_WRITTEN_SECONDS)
    return _last_byte(path) != b"\n"


def _last_byte(path: Path) -> bytes:
    """Empty if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            return b"" if size == 0 else os.pread(file.fileno(), 1, size - 1)
    except OSError:  # it may be written and not read
        return b""
