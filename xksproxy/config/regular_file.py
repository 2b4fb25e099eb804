"""Reading of files that a person names: without blocking, bounded, and regular files only."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAXIMUM_FILE_BYTES: Final = 1024 * 1024
"""For configuration files, certificates and policies."""

_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
FIFO: Final = "a named pipe (FIFO)"
DEVICE: Final = "a device"
_KINDS: Final = {
    stat.S_IFIFO: FIFO,
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: DEVICE,
    stat.S_IFBLK: DEVICE,
}


class FileRefused(Exception):
    """A file cannot be read. The message names the file and the reason, and never quotes the content."""


class NotRegular(FileRefused):
    """It is a FIFO, a device, a socket or a directory."""


@dataclass(frozen=True, slots=True)
class RegularFile:
    """The content of a file, and the metadata that it had when it was read."""

    content: bytes
    status: os.stat_result


def read_regular_file(path: Path, maximum_bytes: int = MAXIMUM_FILE_BYTES) -> RegularFile:
    """Read a regular file. Links are followed.

    A FIFO, a device, a socket or a directory is refused before it is opened, because opening it may block, or change
    something.

    Raises:
        FileRefused: it cannot be opened, is not a regular file, or has more than ``maximum_bytes`` bytes.
    """
    try:
        _require_regular(path, path.stat())
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        raise FileRefused(f"{path}: {reason_of(error)}") from None
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)
        content = _read_up_to(descriptor, maximum_bytes + 1)
    except OSError as error:
        raise FileRefused(f"{path}: {reason_of(error)}") from None
    finally:
        os.close(descriptor)
    if len(content) > maximum_bytes:
        raise FileRefused(f"{path}: it has more than {maximum_bytes} bytes, which is the most that is read")
    return RegularFile(content, status)


def text_of(path: Path, content: bytes) -> str:
    """The text of a file, which must be UTF-8 without a byte-order mark and without NUL.

    Raises:
        FileRefused: it is something else.
    """
    if content.startswith(_BYTE_ORDER_MARKS):
        raise FileRefused(f"{path}: it begins with a byte-order mark; save it as UTF-8 without one")
    if b"\0" in content:
        raise FileRefused(f"{path}: it has a NUL byte; expected UTF-8 text")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise FileRefused(f"{path}: it is not UTF-8 text") from None


def kind_of(path: Path) -> str:
    """What is at a path instead of a regular file, in words; empty if it is a regular file, or nothing is there."""
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "")
    except (OSError, ValueError):
        return ""


def is_regular_file(path: str) -> bool:
    """Whether the file exists and is a regular file. A path that no file can have counts as missing."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def reason_of(error: OSError | ValueError) -> str:
    """Why a file cannot be used, in the words of the operating system."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _require_regular(path: Path, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise NotRegular(f"{path}: it is {_KINDS.get(kind, 'not a file')}; expected a regular file")


def _read_up_to(descriptor: int, maximum_bytes: int) -> bytes:
    parts, missing = [], maximum_bytes
    while missing and (part := os.read(descriptor, missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Give errors of a write the name of the file: the system names it only if the file cannot be opened."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None
