"""Which settings of ``module`` are one file: a PKCS#11 module has one state in a process, whatever its path is."""

from pathlib import Path


def file_identity(path: str) -> object:
    """What two paths of one file have in common: device and inode, or the path itself where there is no file."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return path
    return status.st_dev, status.st_ino
