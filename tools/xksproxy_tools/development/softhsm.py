"""Creates SoftHSM2 tokens for tests and development."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODULE_PATHS: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
"""Where distributions put SoftHSM2's PKCS#11 module."""


class SoftHsmError(Exception):
    """SoftHSM2 is missing or cannot create a token; the text says what to do."""


@dataclass(frozen=True, slots=True)
class SoftHsmToken:
    """The module of a token, and the file for SOFTHSM2_CONF."""

    module: Path
    configuration: Path


def find_module() -> Path:
    """Find the PKCS#11 module of SoftHSM2.

    Raises:
        SoftHsmError: it is not installed.
    """
    found = next((Path(path) for path in MODULE_PATHS if Path(path).is_file()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        raise SoftHsmError("SoftHSM2 is not installed; on Debian and Ubuntu: apt-get install softhsm2")
    return found


def write_configuration(path: Path, tokens: Path) -> None:
    """Write a ``softhsm2.conf`` that keeps tokens as files below ``tokens``."""
    path.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n", "utf-8")


def make_token(directory: Path, *, label: str, pin: str, so_pin: str) -> SoftHsmToken:
    """Create an initialised token below ``directory``, which must exist.

    Raises:
        SoftHsmError: SoftHSM2 is not installed, or softhsm2-util failed.
    """
    module = find_module()
    tokens = directory / "tokens"
    tokens.mkdir(mode=0o700)
    configuration = directory / "softhsm2.conf"
    write_configuration(configuration, tokens.absolute())
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", so_pin]
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - fixed command
    if done.returncode:
        raise SoftHsmError(f"softhsm2-util cannot create a token: {(done.stderr or done.stdout).strip()}")
    return SoftHsmToken(module, configuration)
