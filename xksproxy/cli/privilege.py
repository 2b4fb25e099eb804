"""Lets commands act as the owner of the files that they change, so that links of this user cannot mislead root."""

import errno
import os
import pwd
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from xksproxy.config.access_checks import configuration_problem, path_problem
from xksproxy.config.service_user import ServiceUser
from xksproxy.state.private_files import user_name
from xksproxy.state.state_file import MANIFEST


class WrongUser(Exception):
    """The command was run by a user who is neither root nor the owner of the files. ``hint`` says what to run."""

    def __init__(self, directory: Path, owner: int) -> None:
        name = user_name(owner)
        super().__init__(f"{directory} belongs to {name}, and this command runs as {user_name(os.geteuid())}")
        self.hint = f"run: sudo -u {name} {_this_command()}"


class MisleadingPath(Exception):
    """Somebody besides root and the owner of a directory can make its path lead to another directory."""

    hint: Final = "let every directory and link of the path belong to root, or to the owner of the directory at its end"


class MisleadingConfiguration(Exception):
    """Somebody besides root can change the configuration by which root would act."""

    hint: Final = "let the configuration belong to root, and every directory above it"


def denied_hint(problems: Sequence[str]) -> tuple[str, ...]:
    """What to run if the first problem is that this user must not read the configuration file itself."""
    place, *reason = problems[0].split(": ")
    denied = bool(place) and reason == [os.strerror(errno.EACCES)]
    return (f"run: sudo {_this_command()}",) if denied and os.geteuid() != 0 else ()


def _this_command() -> str:
    """The command line; with the configuration, if that is in a variable, which sudo does not pass on."""
    words = sys.argv[1:]
    config = os.environ.get("XKSPROXY_CONFIG")
    if config and not any(word.startswith("--config") for word in words):
        words = [*words, "--config", config]
    return f"xksproxy {shlex.join(words)}"


def become_owner(directory: Path) -> None:
    """Give up the rights of root permanently, and continue as the owner of a directory.

    If the directory does not exist, the owner of its nearest existing parent is used. If root owns the directory, as in
    a Kubernetes volume, the owner of the manifest in it is used. If this user is the owner, nothing changes.

    Raises:
        WrongUser: this user is neither root nor the owner.
        MisleadingPath: this user is root, and somebody else can make the path lead to another directory.
    """
    owner = _owner(directory)
    if owner in (0, os.geteuid()):
        return
    if os.geteuid() != 0:
        raise WrongUser(directory, owner)
    name, group = _account(owner, directory)
    if name is None:
        os.setgroups([group])
    else:
        os.initgroups(name, group)
    os.setresgid(group, group, group)
    os.setresuid(owner, owner, owner)


@contextmanager
def acting_as_owner(directory: Path) -> Iterator[None]:
    """Act as the owner of a directory within the block, for a command that must also write as its caller.

    Raises:
        WrongUser: this user is neither root nor the owner.
        MisleadingPath: this user is root, and somebody else can make the path lead to another directory.
    """
    owner = _owner(directory)
    if owner in (0, os.geteuid()):
        yield
        return
    if os.geteuid() != 0:
        raise WrongUser(directory, owner)
    groups, own_group = os.getgroups(), os.getegid()
    name, group = _account(owner, directory)
    os.setgroups([group] if name is None else os.getgrouplist(name, group))
    os.setegid(group)
    os.seteuid(owner)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_group)
        os.setgroups(groups)


def require_configuration_of_root(config_file: Path, directory: Path) -> None:
    """Refuse to stay root, because root owns a directory, by a configuration that somebody else can change.

    It could name any directory of root.

    Raises:
        MisleadingConfiguration: this user is root, and somebody else can change the configuration.
    """
    if os.geteuid() == 0 and (problem := configuration_problem(config_file, ServiceUser.current())):
        raise MisleadingConfiguration(f"root does not use {directory}, which belongs to root: {problem}")


def share_with_owner(secret: Path, directory: Path) -> None:
    """Let the owner of a directory read a secret that root has just made for it, by its group (OSError if it fails)."""
    owner = _owner(directory)
    if os.geteuid() == 0 and owner != 0:
        os.chown(secret, -1, _account(owner, directory)[1])
        secret.chmod(0o640)


def _owner(directory: Path) -> int:
    owner = _nearest(directory).stat().st_uid
    if owner == 0 and (manifest := directory / MANIFEST).is_dir():
        owner = manifest.lstat().st_uid
    if os.geteuid() == 0:
        _require_plain_path(directory, owner)
    return owner


def _require_plain_path(directory: Path, owner: int) -> None:
    """Refuse a path by which the owner of a directory, or somebody else, could lead root into a directory of root."""
    user = ServiceUser.current() if owner == 0 else ServiceUser.of_number(owner, _account(owner, directory)[1])
    if problem := path_problem(directory, user):
        raise MisleadingPath(f"root does not use {directory}: {problem}")


def _nearest(directory: Path) -> Path:
    """The directory, or else its nearest existing parent."""
    while not directory.exists():
        directory = directory.parent
    return directory


def _account(owner: int, directory: Path) -> tuple[str | None, int]:
    """The name and the group of a user; without a name, the group of the directory."""
    try:
        entry = pwd.getpwuid(owner)
    except KeyError:
        return None, _nearest(directory).stat().st_gid
    return entry.pw_name, entry.pw_gid
