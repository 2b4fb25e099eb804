"""A file in which a process publishes its latest values. All its space is reserved when it is made.

So a file system that fills up later does not affect it. It is read and written, never mapped: access to a mapped page
that the file system cannot provide would kill the process by SIGBUS.
"""

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from xksproxy.runtime_file import MAXIMUM_BYTES, open_runtime_file

_HEADER: Final = struct.Struct("<QII")  # sequence number, length of the content, CRC-32 of number and content
_SLOTS: Final = 2
_READ_TRIES: Final = 3


class Unreadable(Exception):
    """The file has no complete content."""


class PublishedFile:
    """The writer's side. Belongs to one process.

    The file has two slots, which are written alternately. So one of them is complete at any time, even if the process
    is killed.
    """

    def __init__(self, path: Path, capacity: int) -> None:
        """``capacity`` is the number of bytes for which space is reserved. No file is made yet."""
        self._path = path
        self._capacity = capacity
        self._sequence = 0
        self._descriptor: int | None = None

    def write(self, content: bytes) -> None:
        """Replace the content. A new file is made if it is missing, was replaced, or is too small.

        Raises:
            OSError: there is no room. Readers see the previous content.
        """
        descriptor = self._descriptor
        if descriptor is None or len(content) > self._capacity or not self.in_place:
            self._make(content)
        else:
            self._put(descriptor, content)

    def _put(self, descriptor: int, content: bytes) -> None:
        self._sequence += 1
        header = _HEADER.pack(self._sequence, len(content), _checksum(self._sequence, content))
        slot = self._sequence % _SLOTS
        os.pwrite(descriptor, header + content, slot * (_HEADER.size + self._capacity))

    def _make(self, content: bytes) -> None:
        while self._capacity < len(content):
            self._capacity *= 2
        partial = self._path.with_name(f"{self._path.name}.partial")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
            self._put(descriptor, content)
            partial.rename(self._path)
        except OSError:
            os.close(descriptor)
            with suppress(OSError):
                partial.unlink()
            raise
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor

    @property
    def in_place(self) -> bool:
        """Whether the file is still at its path, with its size: readers find the slots by it."""
        try:
            found = self._path.stat()
            is_same = self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), found)
        except OSError:
            return False
        return is_same and found.st_size == self._size

    @property
    def _size(self) -> int:
        return _SLOTS * (_HEADER.size + self._capacity)


def read_published(path: Path) -> bytes:
    """Return the latest complete content.

    Raises:
        OSError: the file cannot be opened or read.
        Unreadable: the file has another format, or is damaged.
    """
    descriptor = open_runtime_file(path)
    try:
        slot = os.fstat(descriptor).st_size // _SLOTS
        for _ in range(_READ_TRIES):  # the writer may be faster than this
            if (content := _latest(descriptor, slot)) is not None:
                return content
    finally:
        os.close(descriptor)
    raise Unreadable(f"{path} is damaged")


def _latest(descriptor: int, slot: int) -> bytes | None:
    headers = []
    for number in range(_SLOTS):
        data = os.pread(descriptor, _HEADER.size, number * slot)
        if len(data) == _HEADER.size:
            headers.append((*_HEADER.unpack(data), number * slot + _HEADER.size))
    for sequence, length, checksum, position in sorted(headers, reverse=True):
        if sequence and length <= min(slot - _HEADER.size, MAXIMUM_BYTES):
            content = os.pread(descriptor, length, position)
            if len(content) == length and _checksum(sequence, content) == checksum:
                return content
    return None


def _checksum(sequence: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(sequence.to_bytes(8)))
