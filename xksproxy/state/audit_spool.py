"""Events of the life cycle on their way to the audit log.

Commands, the master and the lower rooms cannot write to the chain of a worker. They leave each event as a file in the
state directory. One worker at a time writes them to its audit log, and removes each file after its line is written.
What is left while no worker runs is written at the next start.
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
from xksproxy.state.private_files import open_file, opened_directory, read_file, replace_file_of, user_name
from xksproxy.state.state_file import StateUnusable

_log: Final = logging.getLogger(__name__)
_DIRECTORY: Final = "audit"
_SUFFIX: Final = ".json"
_LOCK: Final = "writer.lock"
_MOST_ENTRIES: Final = 10_000
"""Further events are refused: a service that runs takes them within a second."""


class AuditEntry(msgspec.Struct, frozen=True):
    """One event."""

    at: float
    """Unix time in seconds."""

    message: str
    fields: dict[str, Any]


def actor(user: str | None = None) -> dict[str, Any]:
    """Who acts: machine, process and operating-system user, for the fields of an event.

    ``user`` is the user as whom the process was started, if it is another one now. The variable SUDO_USER can be set
    by the user, so its value is only claimed.
    """
    claimed = os.environ.get("SUDO_USER")
    who = {"machine": platform.node(), "process": os.getpid(), "user": user or user_name(os.geteuid())}
    return who if claimed is None else {**who, "claimed_sudo_user": claimed[:256]}


def leave_event(state_directory: Path, message: str, fields: dict[str, Any]) -> None:
    """Leave an event of this process. If that fails, the log has it instead."""
    try:
        AuditSpool(state_directory).put(message, {**fields, **actor()})
    except StateUnusable as error:
        _log.error("event not in the audit log", extra={"fields": {"event": message, **fields, "problem": str(error)}})


class AuditSpool:
    """The events that wait. Its methods wait for the disk."""

    def __init__(self, state_directory: Path) -> None:
        self._root = state_directory
        self._lock: int | None = None

    def put(self, message: str, fields: dict[str, Any]) -> None:
        """Leave an event that happens now.

        Raises:
            StateUnusable: it cannot be written.
        """
        entry = AuditEntry(time.time(), message, fields)
        try:
            with opened_directory(self._root, _DIRECTORY, create=True) as directory:
                if len(_names(directory)) >= _MOST_ENTRIES:
                    raise StateUnusable(f"{self._root / _DIRECTORY}: {_MOST_ENTRIES} events wait; start the proxy")
                name = f"{time.time_ns():020}-{os.urandom(4).hex()}{_SUFFIX}"
                replace_file_of(name, msgspec.json.encode(entry), directory)
        except OSError as error:
            raise StateUnusable(f"{self._root / _DIRECTORY}: {error.strerror or error}") from error

    def become_writer(self) -> bool:
        """Whether this process is the one that writes the events. It then stays it until it ends.

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
        except OSError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def entries(self) -> dict[str, AuditEntry | None]:
        """The events that wait, by the names of their files, the oldest first. None if a file cannot be read.

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
            StateUnusable: one cannot be removed.
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
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
