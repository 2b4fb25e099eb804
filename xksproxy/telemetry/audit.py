"""The audit log: one line for each request, on standard output or in a file."""

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from xksproxy.config.model import Audit
from xksproxy.config.regular_file import DEVICE, kind_of
from xksproxy.config.secret import Secret
from xksproxy.telemetry.chain import CHECKPOINT, Chain
from xksproxy.telemetry.lines import LineWriter, console_line, json_line

_log: Final = logging.getLogger(__name__)
_MAXIMUM_WAITING_LINES: Final = 10_000
_STANDARD_OUTPUT: Final = 1
_STALLED_SECONDS: Final = 5.0
"""A write that takes longer counts as a failure: a full pipe, or a network disk that does not answer."""

_MOST_BYTES: Final = 65_536
"""So many bytes are written at once. They are the capacity of a pipe, so that a slow reader is seen to read."""

_CLOSE_SECONDS: Final = 2.0
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
_MODE: Final = 0o640


class AuditLog:
    """Writes audit lines on a thread, so that a slow disk or reader does not delay requests.

    At most 10,000 lines wait. Further lines are dropped, and the number of dropped lines is written when there is room.
    If ``when_full`` is ``refuse``, :attr:`refuses` asks the server to refuse requests that cannot be recorded.
    """

    def __init__(self, settings: Audit, key: Secret | None) -> None:
        """``key`` is the key of the HMAC chain. If it is None, lines are not chained."""
        self._settings = settings
        self._chain = Chain(key) if key is not None else None
        self._sink = _Sink(None if settings.file is None else Path(settings.file))
        self._writer = LineWriter(self._write, _dropped, _MAXIMUM_WAITING_LINES)
        self._checkpointed_at = time.monotonic()
        self._format: Callable[[Mapping[str, Any]], str] = (
            self._chain.next_line if self._chain else console_line if settings.format == "console" else json_line
        )

    @property
    def refuses(self) -> bool:
        """Whether requests must be refused, because they cannot be recorded or no line was written yet."""
        return self._settings.when_full == "refuse" and self._settings.enabled and not self.works

    @property
    def works(self) -> bool:
        """Whether lines are written: the first one was, the last try did not fail, and there is room for more."""
        return self._sink.has_written and not self.problem

    @property
    def problem(self) -> str:
        """Why lines are not written; empty if they are, or if none was written yet."""
        if self._sink.broken:
            return f"the audit log cannot be written: {self._sink.reason}"
        if self._sink.stuck_seconds >= _STALLED_SECONDS:
            return f"the audit log cannot be written: nothing was accepted for {self._sink.stuck_seconds:.0f} s"
        return "the audit log is written too slowly: the queue is full" if self._writer.full else ""

    @property
    def stop_reason(self) -> str:
        """Why the service has to stop, as ``stop_after_s`` says; empty if it may go on."""
        limit, seconds = self._settings.stop_after_s, self._sink.stuck_seconds
        if limit is None or seconds < limit:
            return ""
        why = f": {self._sink.reason}" if self._sink.broken else ""
        return f"no audit line could be written for {seconds:.0f} s, and audit.stop_after_s is {limit:g}{why}"

    @property
    def full(self) -> bool:
        """Whether the next line would be dropped."""
        return self._writer.full

    @property
    def written(self) -> int:
        """The number of lines that are written."""
        return self._writer.written

    @property
    def dropped(self) -> int:
        """The number of lines that were dropped because too many lines waited."""
        return self._writer.dropped_in_all

    def write(self, message: str, fields: Callable[[], Mapping[str, Any]], at: float | None = None) -> int:
        """Queue a line without waiting. Returns the number of written lines at which this line is written.

        ``at`` is the time of the event in seconds since 1970, by default now. The writing thread calls ``fields``.
        """
        if self._settings.enabled:
            self._writer.put(_Event(time.time() if at is None else at, message, fields))
        return self._writer.queued

    def checkpoint_if_due(self) -> None:
        """Write a checkpoint every ``checkpoint_interval_s`` seconds. Call it once a second."""
        now = time.monotonic()
        if self._chain and now - self._checkpointed_at >= self._settings.checkpoint_interval_s:
            self._checkpointed_at = now
            self.write(CHECKPOINT, dict)

    def sync(self) -> None:
        """Make what was written outlive a power failure. It waits for the disk: call it on a thread, once a second."""
        self._sink.sync()

    def close(self) -> None:
        """End the chain with a checkpoint, wait at most 2 s until all lines are written, and sync them."""
        if self._chain:
            self.write(CHECKPOINT, lambda: {"end": True})
        self._writer.flush(_CLOSE_SECONDS)
        self._sink.sync()

    def _write(self, events: Sequence["_Event"]) -> None:
        self._sink.write("".join(f"{self._format(event.line())}\n" for event in events).encode())


class _Event(NamedTuple):
    """The data of a line. The writing thread makes the line, because this takes too long for a request."""

    at: float
    """Seconds since 1970."""

    message: str
    fields: Callable[[], Mapping[str, Any]]

    def line(self) -> dict[str, Any]:
        """The fields of the line, in their order."""
        second, rest = divmod(self.at, 1)
        return {
            "time": f"{_second(second)}.{int(1000 * rest):03}+00:00",
            "message": self.message,
            "pid": os.getpid(),
            **self.fields(),
        }


@lru_cache(maxsize=16)  # many lines are of the same second
def _second(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}"


class _Sink:
    """Standard output, or a file. If the file is renamed, as logrotate does, it is opened again."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
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

    def write(self, data: bytes) -> None:
        """Write all of ``data``, which are lines. After an error, try again every second until it is written.

        Other processes write to the same file, so each write has whole lines. If the disk is full in the middle of one,
        its beginning stays, and it is written again on a line of its own.
        """
        self._waits_since = time.monotonic()
        while data:
            try:
                written = self._write_some(data)
            except OSError as error:
                if not self.broken:
                    _log.error("audit log cannot be written", extra={"fields": {"reason": str(error)}})
                self.broken, self.reason, self._identity = True, error.strerror or str(error), None
                time.sleep(1)
            else:
                data, self.broken, self.has_written, self._unsynced = data[written:], False, True, True
                self._waits_since = time.monotonic()
        self._waits_since = None

    def sync(self) -> None:
        """Sync the file if something was written to it. Standard output is not synced."""
        with self._opening:
            if self._path is None or not self._unsynced or self._descriptor == _STANDARD_OUTPUT:
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
            if error.errno not in (errno.EINVAL, errno.EROFS) and not self._sync_failed:
                _log.error("audit log cannot be synced", extra={"fields": {"reason": error.strerror}})
                self._sync_failed = True
        else:
            self._sync_failed = False

    def _write_some(self, data: bytes) -> int:
        """Write the first lines, and return how many bytes of ``data`` need not be written again."""
        if self._path is None:
            return os.write(_STANDARD_OUTPUT, data[:_MOST_BYTES])
        descriptor = self._current(self._path)
        lines = data[: data.rfind(b"\n", 0, _MOST_BYTES) + 1 or data.find(b"\n") + 1]
        start = b"\n" if self._begins_in_a_line else b""
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
        status = os.fstat(self._descriptor)
        self._identity = (status.st_dev, status.st_ino)
        self._begins_in_a_line = stat.S_ISREG(status.st_mode) and _ends_in_a_line(path, status.st_size)


def _ends_in_a_line(path: Path, size: int) -> bool:
    """Whether the last line of a file is incomplete."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, size - 1))
            return file.read(1) not in (b"", b"\n")
    except OSError:  # it may be written and not read
        return False


def _dropped(count: int) -> _Event:
    return _Event(time.time(), "audit lines dropped", lambda: {"count": count})
