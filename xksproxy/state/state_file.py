"""Files of the state directory. They are read and replaced as a whole, under a lock that all processes share."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

_POLL_SECONDS: Final = 0.01
_LOCK_SECONDS: Final = 1.0

Entry = TypeVar("Entry")
Content = TypeVar("Content")


class StateUnusable(Exception):
    """The state directory or a file in it cannot be used. Unreadable state is refused, never ignored."""


@contextmanager
def file_lock(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock of a file. Waits at most ``timeout`` seconds; makes the directory if it is missing.

    Raises:
        StateUnusable: the directory cannot be used, or another process holds the lock.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateUnusable(f"{error.filename}: {error.strerror}") from error
    try:
        _wait_for_lock(descriptor, path, timeout)
        yield
    finally:
        os.close(descriptor)


def read_json(path: Path, content_type: type[Content]) -> Content | None:
    """The decoded content of a JSON file; None if there is no file (StateUnusable if it cannot be read)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=content_type)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StateUnusable(f"{path}: {error}") from error


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically and sync it to disk (StateUnusable if that fails)."""
    partial = path.with_suffix(".partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise StateUnusable(f"{path}: {error.strerror}") from error


class SharedTable(Generic[Entry]):
    """Entries by name in one JSON file that several processes read and change.

    Methods that read or write the file wait for the disk, and writers wait for a lock. Call them on a thread.
    """

    def __init__(self, path: Path, entry_type: type[Entry]) -> None:
        self.path = path
        self._type: type[dict[str, Entry]] = dict[str, entry_type]  # type: ignore[valid-type]
        self._entries: Mapping[str, Entry] = {}
        self._signature: tuple[int, ...] | None = None

    def get(self, name: str) -> Entry | None:
        """The entry as this process last read it."""
        return self._entries.get(name)

    def entries(self) -> Mapping[str, Entry]:
        """All entries as this process last read them."""
        return self._entries

    def refresh(self) -> None:
        """Read the file if it was replaced since the last read. A file that never existed counts as empty.

        Raises:
            StateUnusable: the file cannot be read, or was deleted. The entries do not change.
        """
        signature = _signature(self.path)
        if signature != self._signature:
            self._entries = self._read(existed=True)
            self._signature = signature

    def update(self, name: str, change: Callable[[Entry | None], Entry | None]) -> Entry | None:
        """Replace an entry by ``change(entry)`` and return it. None stands for no entry.

        Raises:
            StateUnusable: the file cannot be read or written. Nothing changes.
        """
        with file_lock(self.path, _LOCK_SECONDS):
            entries = self._read(existed=self._signature is not None)
            before = entries.get(name)
            after = change(before)
            if after != before:
                others = {other: entry for other, entry in entries.items() if other != name}
                entries = others if after is None else {**others, name: after}
                replace_file(self.path, msgspec.json.encode(entries))
        self._entries = entries
        return after

    def _read(self, *, existed: bool) -> dict[str, Entry]:
        """All entries. ``existed``: this process has seen the file, so its absence is an error."""
        entries = read_json(self.path, self._type)
        if entries is None and existed:
            raise StateUnusable(f"{self.path}: it was deleted; restore it")
        return entries or {}


def _signature(path: Path) -> tuple[int, ...] | None:
    """Changes when the file is replaced; None if there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnusable(f"{path}: {error.strerror}") from error
    return status.st_mtime_ns, status.st_ino, status.st_size


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path, timeout: float) -> None:
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise StateUnusable(f"{path}: another process holds its lock") from None
            time.sleep(_POLL_SECONDS)
        else:
            return
