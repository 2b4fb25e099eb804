"""Files of the state directory: read and replaced as a whole, under a lock that all processes share."""

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
    """The state directory or a file in it cannot be used; unreadable state is refused, never ignored."""


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock of a file, for at most ``timeout`` seconds of waiting; the directory is made if need be.

    Raises:
        StateUnusable: the directory cannot be used, or another process holds the lock for too long.
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


def read(path: Path, kind: type[Content]) -> Content | None:
    """What a JSON file says; None where there is none (StateUnusable if it cannot be read)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StateUnusable(f"{path}: {error}") from error


def replace(path: Path, content: bytes) -> None:
    """Replace a file's content at once, safe on disk when this returns (StateUnusable if it cannot be)."""
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

    The methods that touch the disk wait for it and, where they write, for a lock: call them on a thread.
    """

    def __init__(self, path: Path, kind: type[Entry]) -> None:
        self.path = path
        self._type: type[dict[str, Entry]] = dict[str, kind]  # type: ignore[valid-type]
        self._entries: Mapping[str, Entry] = {}
        self._seen: tuple[int, ...] | None = None

    def get(self, name: str) -> Entry | None:
        """The entry as this process last saw it."""
        return self._entries.get(name)

    def entries(self) -> Mapping[str, Entry]:
        """All entries as this process last saw them."""
        return self._entries

    def refresh(self) -> None:
        """Read the file if it is another than before; one that never was there is empty.

        Raises:
            StateUnusable: it cannot be read, or has vanished; the entries stay what they were.
        """
        signature = _signature(self.path)
        if signature != self._seen:
            self._entries = self._read(there=True)
            self._seen = signature

    def update(self, name: str, change: Callable[[Entry | None], Entry | None]) -> Entry | None:
        """Put in place what ``change`` makes of the entry as it is now, None being no entry; the entry that counts.

        Raises:
            StateUnusable: the file cannot be read or written; nothing has changed.
        """
        with locked(self.path, _LOCK_SECONDS):
            entries = self._read(there=self._seen is not None)
            before = entries.get(name)
            after = change(before)
            if after != before:
                kept = {known: entry for known, entry in entries.items() if known != name}
                entries = kept if after is None else {**kept, name: after}
                replace(self.path, msgspec.json.encode(entries))
        self._entries = entries
        return after

    def add(self, additions: Mapping[str, Entry]) -> Mapping[str, Entry]:
        """Put entries in place whose names have none yet, with one write; all entries.

        Raises:
            StateUnusable: the file cannot be read or written; nothing has changed.
        """
        with locked(self.path, _LOCK_SECONDS):
            known = self._read(there=self._seen is not None)
            entries = {**additions, **known}
            if len(entries) > len(known):
                replace(self.path, msgspec.json.encode(entries))
        self._entries = entries
        return entries

    def _read(self, *, there: bool) -> dict[str, Entry]:
        """All entries; ``there``: the file was seen, so it cannot be that there are none yet."""
        entries = read(self.path, self._type)
        if entries is None and there:
            raise StateUnusable(f"{self.path}: it has vanished")
        return entries or {}


def _signature(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnusable(f"{path}: {error.strerror}") from error
    return status.st_mtime_ns, status.st_ino, status.st_size


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut."""
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
                raise StateUnusable(f"{path}: another process has been holding it for long") from None
            time.sleep(_POLL_SECONDS)
        else:
            return
