"""The operating-system user that the proxy runs as."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """A user and its groups."""

    uid: int
    groups: frozenset[int]

    @classmethod
    def current(cls) -> Self:
        """The user of this process."""
        return cls(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))

    @classmethod
    def of_number(cls, uid: int, group: int) -> Self:
        """A user with the groups that it has at a log-in. A user without a name has one ``group``."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(uid, frozenset({group}))
        return cls(entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))

    @classmethod
    def of_state_directory(cls, directory: Path) -> Self:
        """The user of this process; or, if root runs a command for a service, the owner of its state directory."""
        current = cls.current()
        if current.uid != 0:
            return current
        try:
            status = directory.stat()
        except (OSError, ValueError):
            return current
        return current if status.st_uid == 0 else cls.of_number(status.st_uid, status.st_gid)
