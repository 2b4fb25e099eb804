"""POSIX ACLs of files, as setfacl makes them."""

import os
import struct
from pathlib import Path

_USER_OWNER, _USER, _GROUP_OWNER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF


def let(path: Path, rights: int, *, user: int | None = None, group: int | None = None, mask: int | None = None) -> None:
    """Give a user or a group rights to a file (4 read, 2 write, 1 execute). Others keep none, and its mode changes."""
    named = [(_USER, rights, user)] if user is not None else [(_GROUP, rights, group or 0)]
    entries = [
        *[(_USER_OWNER, 7 if path.is_dir() else 6, _NOBODY), *(entry for entry in named if entry[0] == _USER)],
        *[(_GROUP_OWNER, 0, _NOBODY), *(entry for entry in named if entry[0] == _GROUP)],
        *[(_MASK, rights if mask is None else mask, _NOBODY), (_OTHER, 0, _NOBODY)],
    ]
    content = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", content)
