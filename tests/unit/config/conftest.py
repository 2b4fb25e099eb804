"""A small configuration: as a file to load, and as a loaded one whose files exist."""

from collections.abc import Callable
from pathlib import Path

import pytest

from xksproxy.config.credentials import save_credential
from xksproxy.config.load import load_config
from xksproxy.config.model import Config
from xksproxy.sigv4.keyring import generate_credential

_MINIMAL = """\
[server.tls]
certificate = "server.pem"
private_key = "server-key.pem"

[[hsm]]
id = "hsm-1"
module = "module.so"
token = "production"
pin = { file = "pin" }

[[keystore]]
name = "payments"
uri_path_prefix = "/payments"
hsms = ["hsm-1"]
credentials = "credentials"

[[keystore.keys]]
id = "first-key"

[[keystore.keys]]
id = "second-key"
"""


@pytest.fixture
def minimal() -> str:
    """The smallest configuration with two keys."""
    return _MINIMAL


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration file; the files that it names are not there."""

    def write(text: str | bytes, mode: int = 0o644) -> Path:
        path = tmp_path / "xksproxy.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def changed(minimal: str, written: Callable[..., Path]) -> Callable[[str, str], Path]:
    """Write the smallest configuration with one thing changed."""

    def change(old: str, new: str) -> Path:
        assert old in minimal
        return written(minimal.replace(old, new))

    return change


@pytest.fixture
def sound(tmp_path: Path) -> Config:
    """A loaded configuration with which nothing is wrong: all files it names are there."""
    for name, mode in (("server.pem", 0o644), ("server-key.pem", 0o600), ("module.so", 0o644), ("pin", 0o600)):
        path = tmp_path / name
        path.write_text("content")
        path.chmod(mode)
    (tmp_path / "credentials").mkdir(0o700)
    save_credential(tmp_path / "credentials", generate_credential())
    path = tmp_path / "xksproxy.toml"
    path.write_text(_MINIMAL)
    return load_config(path)
