"""SoftHSM2 tokens with one key to thousands of keys, a certificate and a credential. They are created once."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xksproxy_tools.development import certificates
from xksproxy_tools.development.softhsm import find_module, make_token, write_configuration

from xksproxy.config.credentials import load_credentials, save_credential
from xksproxy.config.model import Hsm
from xksproxy.config.object_names import ObjectName
from xksproxy.config.secret import Secret
from xksproxy.hsm.instance.command_sessions import open_session
from xksproxy.hsm.pkcs11.key_objects import generate_aes_key
from xksproxy.sigv4.keyring import Credential, generate_credential

KEY_COUNTS: Final = (1, 100, 600, 1000, 5000)
"""The number of keys of each token. Keys are named ``key-0000`` and so on."""

LABEL: Final = "bench"
PIN: Final = "1234"
"""These tokens need no protection, and other proxies are configured for them by hand."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The directory of tokens, certificate and credential."""

    directory: Path

    @property
    def authority(self) -> Path:
        """The CA of the server's certificate."""
        return self.directory / "ca.pem"

    @property
    def certificate(self) -> Path:
        """A PEM file with the certificate of a server on localhost and its private key."""
        return self.directory / "server.pem"

    @property
    def credentials(self) -> Path:
        """The credentials directory of all key stores."""
        return self.directory / "credentials"

    @property
    def credential(self) -> Credential:
        """The credential of all key stores."""
        return load_credentials(self.credentials)[0]

    def home(self, keys: int) -> Path:
        """The directory of the token with this number of keys: ``softhsm2.conf`` and ``tokens``."""
        return self.directory / f"keys-{keys}"

    def hsm(self, keys: int, sessions: int = 4) -> Hsm:
        """The token as an ``[[hsm]]``."""
        environment = {"SOFTHSM2_CONF": str(self.home(keys) / "softhsm2.conf")}
        return Hsm(
            id="hsm",
            module=str(find_module()),
            token=LABEL,
            pin=PIN,
            preset="softhsm2",
            sessions=sessions,
            environment=environment,
        )


def key_id(number: int) -> str:
    """Label of a key, and its external key id."""
    return f"key-{number:04}"


def prepared(directory: Path, counts: Sequence[int] = KEY_COUNTS) -> Tokens:
    """The tokens below ``directory``. Creating them takes a minute or two."""
    tokens = Tokens(directory.absolute() / "tokens")
    if not tokens.directory.exists():
        # Another process, because PKCS#11 is initialised there, and this process starts servers.
        command = [sys.executable, "-m", __name__, str(tokens.directory), *map(str, counts)]
        subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    return tokens


def make(directory: Path, counts: Sequence[int]) -> None:
    """Create everything under a temporary name, then rename it. A process may call this once."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".tokens-", dir=directory.parent))
    try:
        _make_certificate(staging)
        (staging / "credentials").mkdir(0o700)
        save_credential(staging / "credentials", generate_credential())
        _make_tokens(staging, directory, counts)
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _make_certificate(staging: Path) -> None:
    authority = certificates.create_authority("xksproxy benchmarks")
    certificate, key = certificates.issue(authority, "localhost", hosts=("localhost", "127.0.0.1"))
    (staging / "ca.pem").write_bytes(certificates.certificate_pem(authority.certificate))
    certificates.write_private(staging / "server.pem", certificate + key)
    certificates.write_private(staging / "server-key.pem", key)


def _make_tokens(staging: Path, directory: Path, counts: Sequence[int]) -> None:
    """Add keys to one token, and copy it at each wanted number of keys."""
    growing = staging / "growing"
    growing.mkdir()
    token = make_token(growing, label=LABEL, pin=PIN, so_pin=PIN)
    hsm = Hsm(
        id="hsm",
        module=str(token.module),
        token=LABEL,
        preset="softhsm2",
        environment={"SOFTHSM2_CONF": str(token.configuration)},
    )
    session = open_session(hsm, Secret(PIN), staging / "state")
    for number in range(max(counts)):
        generate_aes_key(session.binding, 256, name=ObjectName(key_id(number)), encrypt=True, decrypt=True)
        if number + 1 in counts:
            home = f"keys-{number + 1}"
            print(f"a token with {number + 1} keys", flush=True)  # noqa: T201 - it takes a while
            shutil.copytree(growing / "tokens", staging / home / "tokens")
            write_configuration(staging / home / "softhsm2.conf", directory / home / "tokens")
    session.close()
    shutil.rmtree(growing)


if __name__ == "__main__":
    make(Path(sys.argv[1]), [int(count) for count in sys.argv[2:]])
