"""Writing of a plan to a directory, completely or not at all."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from xksproxy.config.credentials import save_credential
from xksproxy.config.regular_file import named_errors
from xksproxy.config.secret import sync_directory
from xksproxy.importing.hsm import PIN_FILE
from xksproxy.importing.keystores import CREDENTIALS_DIRECTORY
from xksproxy.importing.plan import Plan
from xksproxy.importing.render import render_config

CONFIG_FILE: Final = "xksproxy.toml"

_PRIVATE: Final = 0o600
_PRIVATE_DIRECTORY: Final = 0o700


def write_plan(plan: Plan, directory: Path) -> tuple[str, ...]:
    """Write configuration, PIN and credentials, readable only by the owner, and return their paths in ``directory``.

    The files are written to a temporary directory, which is then renamed. So a failure leaves no files.

    Raises:
        FileExistsError: ``directory`` exists and is not an empty directory.
        OSError: it cannot be written.
    """
    if os.path.lexists(directory) and not _is_empty_directory(directory):
        raise FileExistsError(0, "it exists and is not an empty directory; choose another --out", str(directory))
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        written = _fill(staging, plan)
        for path in (staging, *filter(Path.is_dir, staging.rglob("*"))):
            sync_directory(path)
        # Replaces an empty directory, and fails if the directory is no longer empty.
        staging.rename(directory)
        sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return written


def _is_empty_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _fill(directory: Path, plan: Plan) -> tuple[str, ...]:
    written = [_write_private(directory / CONFIG_FILE, render_config(plan))]
    if plan.pin is not None:
        written.append(_write_private(directory / PIN_FILE, f"{plan.pin.reveal()}\n"))
    (directory / CREDENTIALS_DIRECTORY).mkdir(_PRIVATE_DIRECTORY)
    for entry in plan.credentials:
        (directory / entry.directory).mkdir(_PRIVATE_DIRECTORY)
        if entry.credential is not None:
            written.append(save_credential(directory / entry.directory, entry.credential))
    return tuple(str(path.relative_to(directory)) for path in written)


def _write_private(path: Path, text: str) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with named_errors(path), os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    return path
