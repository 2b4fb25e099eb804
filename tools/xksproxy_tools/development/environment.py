"""The directory of ``xksproxy dev``. It is created completely or not at all."""

import json
import re
import secrets
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xksproxy.config.check import check_config
from xksproxy.config.credentials import load_credentials, save_credential
from xksproxy.config.errors import ConfigError
from xksproxy.config.load import load_config
from xksproxy.config.model import Hsm
from xksproxy.config.secret import Secret
from xksproxy.hsm.instance.command_sessions import open_session
from xksproxy.keystore.kms_config import console_json
from xksproxy.sigv4.keyring import Credential, generate_credential
from xksproxy_tools.development import certificates
from xksproxy_tools.development.softhsm import SoftHsmError, make_token, write_configuration

URI_PATH_PREFIX: Final = "/dev"
REGION: Final = "us-east-1"
TOKEN_LABEL: Final = "xksproxy-dev"  # noqa: S105 - a PKCS#11 token's label

_CONFIG_FILE: Final = "xksproxy.toml"
_DIRECTORY_MODE: Final = 0o700


@dataclass(frozen=True, slots=True)
class _DevKey:
    label: str
    encrypt: bool
    decrypt: bool


KEYS: Final = (
    _DevKey("demo-key", encrypt=True, decrypt=True),
    _DevKey("encrypt-only-key", encrypt=True, decrypt=False),
    _DevKey("decrypt-only-key", encrypt=False, decrypt=True),
    _DevKey("impotent-key", encrypt=False, decrypt=False),
)
"""The keys on a development token."""


@dataclass(frozen=True, slots=True)
class DevEnvironment:
    """A directory with everything that a proxy on this machine needs."""

    directory: Path
    port: int

    @property
    def config(self) -> Path:
        """The configuration file, which ``xksproxy serve`` accepts too."""
        return self.directory / _CONFIG_FILE

    @property
    def authority(self) -> Path:
        """The certificate of the development CA."""
        return self.directory / "tls" / "ca.pem"

    @property
    def client_env(self) -> Path:
        """Shell variables for clients, such as the public curl test client."""
        return self.directory / "client.env"

    @property
    def credential(self) -> Credential:
        """The first credential of the key store."""
        return load_credentials(self.directory / "credentials")[0]


def open_environment(directory: Path, port: int | None, default_port: int) -> DevEnvironment:
    """Create the directory, or open an existing one. Certificates that expire soon are renewed.

    A new directory is for ``port`` or ``default_port``; an existing one changes its port only if ``port`` is given. A
    new directory is built under a temporary name and renamed, so an interrupted call leaves no partial directory.

    Raises:
        SoftHsmError: SoftHSM2 is missing.
        ConfigError: the content of the directory cannot be used.
        OSError: the directory cannot be written.
    """
    directory = directory.absolute()
    if not (directory / _CONFIG_FILE).exists():
        _build(directory, port or default_port)
    config = load_config(directory / _CONFIG_FILE)
    if problems := check_config(config):
        raise ConfigError([f"{directory / _CONFIG_FILE}: {problem}" for problem in problems])
    configured = int(config.server.listen.rpartition(":")[2])
    environment = DevEnvironment(directory, port or configured)
    if environment.port != configured:
        _change_port(environment.config, environment.port)
    _renew_certificates(directory / "tls")
    _write_client_env(environment)
    return environment


def _build(directory: Path, port: int) -> None:
    if "#" in str(directory):
        raise SoftHsmError(f"{directory}: SoftHSM2 treats the text after a # as a comment; use another --dir")
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(0, "it is not empty and holds no xksproxy.toml; choose another --dir", str(directory))
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        module = make_token_with_keys(staging)
        write_configuration(staging / "softhsm2.conf", directory / "tokens")
        _make_credential(staging)
        _make_certificates(staging / "tls")
        (staging / _CONFIG_FILE).write_text(_config_text(directory, module, port), "utf-8")
        if directory.exists():
            directory.rmdir()
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def make_token_with_keys(directory: Path) -> Path:
    """Create the token, its PIN file and its keys. Returns the path of the PKCS#11 module."""
    pin = Secret(secrets.token_hex(8))
    certificates.write_private(directory / "pin", f"{pin.reveal()}\n".encode())
    token = make_token(directory, label=TOKEN_LABEL, pin=pin.reveal(), so_pin=secrets.token_hex(8))
    hsm = Hsm(
        id="softhsm",
        module=str(token.module),
        token=TOKEN_LABEL,
        preset="softhsm2",
        environment={"SOFTHSM2_CONF": str(token.configuration)},
    )
    session = open_session(hsm, pin, directory / "state")
    for key in KEYS:
        session.create_key(key.label, bits=256, encrypt=key.encrypt, decrypt=key.decrypt)
    session.close()
    return token.module


def _make_credential(directory: Path) -> None:
    """Create a credential, and the file for the KMS console (R-CONF-2)."""
    credential = generate_credential()
    (directory / "credentials").mkdir(_DIRECTORY_MODE)
    save_credential(directory / "credentials", credential)
    certificates.write_private(directory / "kms-console.json", console_json(URI_PATH_PREFIX, credential).encode())


def _make_certificates(directory: Path) -> None:
    directory.mkdir(_DIRECTORY_MODE)
    authority = certificates.create_authority("xksproxy development CA")
    certificates.write_private(directory / "ca-key.pem", certificates.private_key_pem(authority.private_key))
    (directory / "ca.pem").write_bytes(certificates.certificate_pem(authority.certificate))
    _issue_server_certificate(directory, authority)


def _issue_server_certificate(directory: Path, authority: certificates.Authority) -> None:
    certificate, key = certificates.issue(authority, "localhost", hosts=("localhost", "127.0.0.1", "::1"))
    certificates.write_private(directory / "server-key.pem", key)
    (directory / "server.pem").write_bytes(certificate + certificates.certificate_pem(authority.certificate))


def _renew_certificates(directory: Path) -> None:
    ca, server = directory / "ca.pem", directory / "server.pem"
    try:
        ending = certificates.needs_renewal(server.read_bytes())
    except ValueError as error:
        raise ConfigError([f"{server}: not a certificate in PEM: {error}"]) from None
    if ending:
        key = (directory / "ca-key.pem").read_bytes()
        _issue_server_certificate(directory, certificates.load_authority(ca.read_bytes(), key))


def _change_port(config: Path, port: int) -> None:
    text = config.read_text("utf-8")
    changed = re.sub(r"""(?m)^(\s*listen\s*=\s*["'][^"']*:)[0-9]+""", rf"\g<1>{port}", text, count=1)
    config.write_text(changed, "utf-8")


def _write_client_env(environment: DevEnvironment) -> None:
    credential = environment.credential
    variables = {
        "XKS_PROXY_HOST": f"localhost:{environment.port}",
        "URI_PREFIX": URI_PATH_PREFIX.strip("/"),
        "SIGV4_ACCESS_KEY_ID": credential.access_key_id,
        "SIGV4_SECRET_ACCESS_KEY": credential.secret_access_key,
        "REGION": REGION,
        "KEY_ID": "demo-key",
        "ENCRYPT_ONLY_KEY_ID": "encrypt-only-key",
        "DECRYPT_ONLY_KEY_ID": "decrypt-only-key",
        "IMPOTENT_KEY_ID": "impotent-key",
        "SCHEME": "https://",
        "SECURE": f"--cacert {environment.authority}",
        "XKSPROXY_CONFIG": str(environment.config),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    certificates.write_private(environment.client_env, ("\n".join(lines) + "\n").encode())


def admin_port(port: int) -> int:
    """The port of the admin listener: 9464 if the proxy has 8443, else the next port."""
    return 9464 if port == 8443 else port % 65535 + 1  # noqa: PLR2004


def _config_text(directory: Path, module: Path, port: int) -> str:
    keys = "\n".join(f'[[keystore.keys]]\nid = "{key.label}"\n' for key in KEYS)
    return f"""\
# Made by `xksproxy dev`. A normal configuration: `xksproxy serve --config` accepts it too.

[server]
listen = "127.0.0.1:{port}"
workers = 2

[server.tls]
certificate = "tls/server.pem"
private_key = "tls/server-key.pem"

[[hsm]]
id = "softhsm"
module = "{module}"
preset = "softhsm2"
token = "{TOKEN_LABEL}"
pin = {{ file = "pin" }}
environment = {{ SOFTHSM2_CONF = {json.dumps(str(directory / "softhsm2.conf"), ensure_ascii=False)} }}

[[keystore]]
name = "dev"
uri_path_prefix = "{URI_PATH_PREFIX}"
hsms = ["softhsm"]
credentials = "credentials"

{keys}
[state]
directory = "state"

[admin]
listen = "127.0.0.1:{admin_port(port)}"

[audit]
format = "console"

[logging]
format = "console"
"""
