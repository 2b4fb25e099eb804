"""Small files of the runtime directory, which lies in memory: replaced as a whole, without a sync."""

import secrets
from contextlib import suppress
from pathlib import Path


def replace_runtime_file(path: Path, content: bytes) -> None:
    """Replace a file atomically. Several processes may do so at the same moment: the last one wins.

    Raises:
        OSError: it cannot be written. The old file stays.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(content)
        partial.rename(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
