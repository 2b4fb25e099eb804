"""Which files of directories have changed, from inotify(7): it costs nothing while nothing changes."""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_EVENT: Final = struct.Struct("iIII")  # watch descriptor, mask, cookie, length of the name
_CHANGES: Final = 0x004 | 0x008 | 0x040 | 0x080 | 0x100 | 0x200 | 0x400 | 0x800
"""IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF."""

_MOVED_SELF: Final = 0x800
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLY_DIRECTORY: Final = 0x1000000
_READ_BYTES: Final = 256 * 1024


class DirectoryChanges:
    """The directories of one watcher, for one thread at a time.

    A directory that cannot be watched, or is no longer where it was, is in :attr:`unwatched`: its owner has to look at
    it from time to time. The kernel limits watches for each user (fs.inotify.max_user_watches).
    """

    def __init__(self, directories: Iterable[str | Path]) -> None:
        self.unwatched: set[str] = set()
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._directories: dict[int, str] = {}
        for directory in map(str, directories):
            # Of a link, only the directory that it leads to now could be watched.
            watch = -1 if Path(directory).is_symlink() else self._watch(directory)
            if watch < 0:
                self.unwatched.add(directory)
            else:
                self._directories[watch] = directory

    def __del__(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def take(self) -> set[tuple[str, str]] | None:
        """The directory and name of each file that has changed since the last call; None if that is not known."""
        changed: set[tuple[str, str]] = set()
        known = True
        while data := self._read():
            position = 0
            while position < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, position)
                position += _EVENT.size + length
                if mask & _OVERFLOW:
                    known = False
                elif (directory := self._directories.get(watch)) is not None:
                    name = data[position - length : position].rstrip(b"\0")
                    changed.add((directory, os.fsdecode(name)))
                    if mask & (_MOVED_SELF | _IGNORED):
                        self._forget(watch, directory)
        return changed if known else None

    def _watch(self, directory: str) -> int:
        if self._descriptor < 0:
            return -1
        try:
            path = os.fsencode(directory)
            return int(self._library.inotify_add_watch(self._descriptor, path, _CHANGES | _ONLY_DIRECTORY))
        except (ValueError, ctypes.ArgumentError):  # a NUL in the name
            return -1

    def _forget(self, watch: int, directory: str) -> None:
        del self._directories[watch]
        self.unwatched.add(directory)

    def _read(self) -> bytes:
        if self._descriptor < 0:
            return b""
        try:
            return os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""
