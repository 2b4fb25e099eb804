"""The spool of life-cycle events for the audit log.

Commands, the master and the lower packages cannot write to the chain of a worker. They write each event to a file in
the state directory. One worker at a time writes the events to its audit log, and removes each file after its line is
written. Events from a time without a worker are written at the next start.
"""

import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from xksproxy.decoding import decode_json
from xksproxy.encoding import encode_json
from xksproxy.state.private_files import open_file, opened_directory, read_file, replace_file_of, user_name
from xksproxy.state.state_file import StateUnusable, UnixTime

_log: Final = logging.getLogger(__name__)
_DIRECTORY: Final = "audit"
_SUFFIX: Final = ".json"
_LOCK: Final = "writer.lock"
_MOST_ENTRIES: Final = 10_000
"""Further events are refused. A running service writes waiting events within a second."""


class AuditEntry(msgspec.Struct, frozen=True):
    """One event."""

    at: UnixTime
    """Unix time in seconds."""

    message: str
    fields: dict[str, Any]


def actor(user: str | None = None) -> dict[str, Any]:
    """The machine, process and operating-system user that act, as fields of an event.

    ``user`` is the user who started the process, if the process has changed its user. The variable SUDO_USER can be set
    by the user, so its value is only claimed.
    """
    claimed = os.environ.get("SUDO_USER")
    who = {"machine": platform.node(), "process": os.getpid(), "user": user or user_name(os.geteuid())}
    return who if claimed is None else {**who, "claimed_sudo_user": claimed[:256]}


def leave_event(state_directory: Path, message: str, fields: dict[str, Any]) -> None:
    """Add an event of this process to the spool. If that fails, the event is logged instead."""
    try:
        AuditSpool(state_directory).put(message, {**fields, **actor()})
    except StateUnusable as error:
        _log.error("event not in the audit log", extra={"fields": {"event": message, **fields, "problem": str(error)}})


class AuditSpool:
    """The waiting events. The methods wait for the disk."""

    def __init__(self, state_directory: Path) -> None:
        self._root = state_directory
        self._lock: int | None = None

    def put(self, message: str, fields: dict[str, Any]) -> None:
        """Add an event that happens now.

        Raises:
            StateUnusable: it cannot be written.
        """
        entry = AuditEntry(time.time(), message, fields)
        try:
            with opened_directory(self._root, _DIRECTORY, create=True) as directory:
                if len(_names(directory)) >= _MOST_ENTRIES:
                    raise StateUnusable(f"{self._root / _DIRECTORY}: {_MOST_ENTRIES} events wait; start the proxy")
                name = f"{time.time_ns():020}-{os.urandom(4).hex()}{_SUFFIX}"
                replace_file_of(name, encode_json(entry), directory)
        except OSError as error:
            raise StateUnusable(f"{self._root / _DIRECTORY}: {error.strerror or error}") from error

    def become_writer(self) -> bool:
        """Return whether this process writes the events. If so, it does until it ends.

        Raises:
            StateUnusable: the directory cannot be used.
        """
        if self._lock is not None:
            return True
        try:
            with opened_directory(self._root, _DIRECTORY, create=True) as directory:
                descriptor = open_file(_LOCK, os.O_RDWR | os.O_CREAT, directory)
        except OSError as error:
            raise StateUnusable(f"{self._root / _DIRECTORY}: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise StateUnusable(f"{self._root / _DIRECTORY / _LOCK}: {error.strerror}") from error
        self._lock = descriptor
        return True

    def entries(self) -> dict[str, AuditEntry | None]:
        """The waiting events by the names of their files, the oldest first. An event is None if its file is damaged.

        Raises:
            StateUnusable: the directory cannot be used.
        """
        try:
            with opened_directory(self._root, _DIRECTORY) as directory:
                return {name: _read(name, directory) for name in _names(directory)}
        except OSError as error:
            raise StateUnusable(f"{self._root / _DIRECTORY}: {error.strerror or error}") from error

    def remove(self, names: Iterable[str]) -> None:
        """Remove events whose lines are written.

        Raises:
            StateUnusable: an event cannot be removed.
        """
        try:
            with opened_directory(self._root, _DIRECTORY) as directory:
                for name in names:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateUnusable(f"{self._root / _DIRECTORY}: {error.strerror or error}") from error


def _names(directory: int) -> list[str]:
    """The names of the files of events, the oldest first."""
    with os.scandir(directory) as found:
        return sorted(item.name for item in found if item.name.endswith(_SUFFIX))


def _read(name: str, directory: int) -> AuditEntry | None:
    try:
        return decode_json(read_file(name, directory), AuditEntry)
    except (OSError, msgspec.MsgspecError):
        return None
