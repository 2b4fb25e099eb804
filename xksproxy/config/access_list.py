"""POSIX access control lists (ACLs): who has rights that the mode of a file does not show.

A file with an ACL shows the mask of the list as the mode of its group, so a list whose mask gives nothing gives nobody
more than the mode. Lists of NFSv4 are not read: what they give shows in no attribute that all file systems have.
"""

import errno
import os
import struct
from pathlib import Path
from typing import Final

from xksproxy.config.service_user import ServiceUser

READ: Final = 4
CHANGE: Final = 2
_VERBS: Final = {READ: "read", CHANGE: "change"}

_ATTRIBUTE: Final = "system.posix_acl_access"
_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_USER, _GROUP, _MASK = 0x02, 0x08, 0x10
_ABSENT: Final = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS)


def acl_problem(file: int | Path, right: int, user: ServiceUser) -> str | None:
    """Whom besides root and a user with its groups the ACL of a file gives a right, in words, or None.

    ``file`` is a descriptor or a path, whose last link is followed. A list that cannot be read is a problem.
    """
    try:
        content = os.getxattr(file, _ATTRIBUTE)
        version = _HEADER.unpack_from(content)[0]
        entries = list(_ENTRY.iter_unpack(content[_HEADER.size :]))
    except OSError as error:
        return None if error.errno in _ABSENT else f"its ACL cannot be read: {error.strerror}"
    except struct.error:
        return "its ACL cannot be read: its length is wrong"
    if version != _VERSION:
        return f"its ACL cannot be read: its version is {version}, expected {_VERSION}"
    mask = next((rights for tag, rights, _ in entries if tag == _MASK), 0)
    for tag, rights, who in entries:
        trusted = (tag == _USER and who in (0, user.uid)) or (tag == _GROUP and who in (0, *user.groups))
        if tag in (_USER, _GROUP) and not trusted and rights & mask & right:
            name = "user" if tag == _USER else "group"
            return f"its ACL lets {name} {who} {_VERBS[right]} it; remove the ACL with setfacl -b"
    return None
