"""Who can change the files that the proxy trusts: only root and the service may."""

import grp
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xksproxy.config.access_list import CHANGE, acl_problem
from xksproxy.config.credentials import CREDENTIAL_SUFFIX
from xksproxy.config.model import Config, Hsm
from xksproxy.config.secret import SecretReference, access_problem
from xksproxy.config.service_user import ServiceUser

_MAXIMUM_LINKS: Final = 40
_POLICY_SUFFIX: Final = ".cedar"


@dataclass(frozen=True, slots=True)
class _Trusted:
    """A path whose content the proxy trusts, with the path of its configuration key."""

    at: str
    path: Path
    secret: bool = False
    """Whether a file there is a secret, so that others must not read it either."""

    written: bool = False
    """Whether it is a directory of logs. Groups such as syslog on /var/log can change those."""

    suffix: str | None = None
    """If it is a directory: the names of the files in it that are read. None: the directory alone counts."""


def access_problems(config_file: Path, config: Config, user: ServiceUser) -> Iterator[str]:
    """Files and directories that somebody besides root and the user of the service can change.

    Each problem starts with the path of the configuration key. A directory counts with all directories above it, and a
    link with its target. Only its owner can rename or delete a file in a sticky directory such as /tmp, so that is
    accepted above a file. Nothing is reported of what does not exist, because other checks do that.
    """
    seen: set[Path] = set()
    for trusted in _trusted(config_file, config):
        for file in (trusted, *_files_in(trusted)):
            yield from _problems(file, user, seen)


def configuration_problem(config_file: Path, user: ServiceUser) -> str | None:
    """Who besides root and a user can change a configuration file, or None; None also if it does not exist."""
    return next(_problems(_Trusted("the configuration file", config_file), user, set()), None)


def path_problem(path: Path, user: ServiceUser) -> str | None:
    """Who besides root and a user can lead a path to another directory, by a link or a rename, or None.

    All directories above it count, and all links. Of the directory itself the owner counts. If it does not exist,
    nobody else may be able to make it.
    """
    places: list[tuple[Path, os.stat_result]] = []
    exists = False
    with suppress(OSError, ValueError):
        places.extend(_places(path))  # keeps those before an error
        exists = True
    for number, (place, status) in enumerate(places, 1):
        if exists and number == len(places):
            problem = _owner_problem(status, user)
        else:
            problem = _problem(place, status, user, within=number < len(places))
        if problem is not None:
            return f"{place}: {problem}"
    return None


def _trusted(config_file: Path, config: Config) -> Iterator[_Trusted]:
    tls = config.server.tls
    yield _Trusted("the configuration file", config_file)
    yield _Trusted("server.tls.certificate", Path(tls.certificate))
    yield _Trusted("server.tls.private_key", Path(tls.private_key), secret=True)
    if tls.client_ca is not None:
        yield _Trusted("server.tls.client_ca", Path(tls.client_ca))
    for index, hsm in enumerate(config.hsm):
        yield from _trusted_of_hsm(f"hsm[{index}]", hsm)
    for index, store in enumerate(config.keystore):
        credentials = Path(store.credentials)
        yield _Trusted(f"keystore[{index}].credentials", credentials, secret=True, suffix=CREDENTIAL_SUFFIX)
        for policy in store.policies or ():
            yield _Trusted(f"keystore[{index}].policies", Path(policy), suffix=_POLICY_SUFFIX)
    if config.audit.key is not None and config.audit.key.file is not None:
        yield _Trusted("audit.key", Path(config.audit.key.file), secret=True)
    yield _Trusted("state.directory", Path(config.state.directory))
    if config.audit.enabled and config.audit.file is not None:
        # The last one, because each place is examined once.
        yield _Trusted("audit.file", Path(config.audit.file).parent, written=True)


def _trusted_of_hsm(at: str, hsm: Hsm) -> Iterator[_Trusted]:
    yield _Trusted(f"{at}.module", Path(hsm.module))
    if isinstance(hsm.pin, SecretReference) and hsm.pin.file is not None:
        yield _Trusted(f"{at}.pin", Path(hsm.pin.file), secret=True)
    # Modules find their configuration file by a variable such as SOFTHSM2_CONF.
    for name, value in hsm.environment.items():
        if value.startswith("/") and "\0" not in value and Path(value).is_file():
            yield _Trusted(f"{at}.environment.{name}", Path(value))


def _files_in(trusted: _Trusted) -> Iterable[_Trusted]:
    if trusted.suffix is None:
        return ()
    try:
        files = sorted(path for path in trusted.path.iterdir() if path.suffix == trusted.suffix)
    except (OSError, ValueError):
        return ()
    return [_Trusted(trusted.at, file, secret=trusted.secret) for file in files]


def _problems(trusted: _Trusted, user: ServiceUser, seen: set[Path]) -> Iterator[str]:
    """The problems of a path and of everything above it that was not examined before."""
    try:
        places = list(_places(trusted.path))
    except (OSError, ValueError):
        return
    for place, status in places:
        if place in seen:
            continue
        seen.add(place)
        last = place == places[-1][0]
        if last and trusted.secret and stat.S_ISREG(status.st_mode):
            problem = access_problem(place, status, user)
        elif trusted.written:
            problem = _problem_of_logs(status, user)
        else:
            problem = _problem(place, status, user, within=not last)
        if problem is not None:
            yield f"{trusted.at}: {place}: {problem}"


def _problem(place: Path, status: os.stat_result, user: ServiceUser, *, within: bool) -> str | None:
    """Why somebody else can change a place; ``within`` is a directory above a file."""
    mode = stat.S_IMODE(status.st_mode)
    if problem := _owner_problem(status, user):
        return problem
    if stat.S_ISLNK(status.st_mode) or (within and mode & stat.S_ISVTX):
        return None
    if not mode & (stat.S_IWOTH | stat.S_IWGRP) or _is_read_only(place):
        return None
    if mode & stat.S_IWOTH:
        return _open_to_all(mode)
    if status.st_gid not in (0, *user.groups):
        return f"its mode is {mode:04o}, so the group {_group_name(status.st_gid)} can change it; use chmod g-w"
    return acl_problem(place, CHANGE, user)


def _owner_problem(status: os.stat_result, user: ServiceUser) -> str | None:
    if status.st_uid in (0, user.uid):
        return None
    owner = _user_name(status.st_uid)
    return f"it belongs to {owner}, who can change it; expected root or {_user_name(user.uid)}, the proxy's user"


def _problem_of_logs(status: os.stat_result, user: ServiceUser) -> str | None:
    """Why anybody could replace the log in a directory, for example by a link to another file of the service.

    Root writes in directories of root alone, because a link there may lead to any file.
    """
    if user.uid == 0 and (problem := _owner_problem(status, user)):
        return problem
    mode = status.st_mode
    open_to_all = mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not stat.S_ISLNK(mode)
    return _open_to_all(stat.S_IMODE(mode)) if open_to_all else None


def _open_to_all(mode: int) -> str:
    return f"its mode is {mode:04o}, so everyone can change it; use chmod go-w"


def _places(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each directory and link on the way to a path, and its target at the end.

    Raises:
        OSError: one of them does not exist, or is not accessible.
    """
    place, links = Path("/"), 0
    pending = list(reversed(path.absolute().parts[1:]))
    yield place, place.lstat()
    while pending:
        name = pending.pop()
        if name == "..":
            place = place.parent
            continue
        child = place / name
        status = child.lstat()
        yield child, status
        if not stat.S_ISLNK(status.st_mode):
            place = child
            continue
        if (links := links + 1) > _MAXIMUM_LINKS:
            return
        target = child.readlink()
        place = Path("/") if target.is_absolute() else place
        pending += reversed([part for part in target.parts if part != "/"])


def _is_read_only(place: Path) -> bool:
    """Whether it lies on a file system that nobody writes from here, such as a volume of a Kubernetes Secret."""
    try:
        return bool(os.statvfs(place).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
