"""Valid files of every kind that a person names, how the proxy reads them, and ways to damage them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding
from importing_support import SETTINGS
from msgspec.structs import replace
from mutated_values import other_values
from xksproxy_tools.development import certificates

from xksproxy.authorization.policies import load_policies
from xksproxy.cli.config_check import load_checked, policy_warnings, problems_of, witness_warnings
from xksproxy.config.certificate_checks import certificate_findings, certificate_problems
from xksproxy.config.client_ca_checks import client_ca_findings
from xksproxy.config.credentials import read_credentials, save_credential
from xksproxy.config.errors import ConfigError
from xksproxy.config.inspection import inspect_config
from xksproxy.config.load import load_config
from xksproxy.config.model import Tls
from xksproxy.config.secret import SecretError, SecretReference, read_secret
from xksproxy.importing.plan import make_plan
from xksproxy.importing.render import render_config
from xksproxy.importing.settings import SettingsError, read_settings
from xksproxy.server.tls import build_context, certificate_info, verification_findings
from xksproxy.sigv4.keyring import generate_credential

_CONFIG: Final = """\
[server]
listen = "127.0.0.1:8443"
workers = 2
deadline_ms = 200

[server.tls]
certificate = "server.pem"
private_key = "server-key.pem"

[[hsm]]
id = "hsm-1"
module = "module.so"
token = "production"
pin = { file = "pin" }
preset = "softhsm2"
sessions = 4
environment = { SOFTHSM2_CONF = "softhsm2.conf" }

[[keystore]]
name = "payments"
uri_path_prefix = "/payments"
hsms = ["hsm-1"]
credentials = "credentials"
policies = ["policy.cedar"]
requests_per_second = 100.5

[[keystore.keys]]
id = "first-key"
aad_encoding = "sha256"
versions = { 1 = "first", 2 = "second" }
legacy_metadata = ["AAAA"]

[admin]
listen = "127.0.0.1:9464"

[audit]
checkpoint_interval_s = 60

[state]
directory = "state"

[health]
listen = "127.0.0.1:8081"

[logging]
level = "info"

[tracing]
endpoint = "http://127.0.0.1:4318"
"""
_POLICY: Final = '@id("first")\npermit (principal, action == Xks::Action::"Encrypt", resource);\n'
_SNIPPETS: Final = (
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\r", b"\r\n", b"\n\n", b" ", b"\t", b"\xff", "\u2028".encode()),
    *(b"[", b"]", b"[[", b"{", b"}", b'"', b'"""', b"'", b"=", b",", b".", b"#", b"\\", b"\\ud800", b"-----"),
    *(b"0", b"-1", b"2147483648", b"9223372036854775808", b"1e999", b"nan", b"-inf", b"9" * 5000, b"true"),
    *(b"1979-05-27", b"9999-12-31T23:59:59-12:00", b"0001-01-01T00:00:00+14:00", b"created = 07:32:00\n"),
    *(b"[" * 2000, b"a." * 500, b"[server]\n", b"[hsm]\n", b"[[server]]\n", b"workers = 3\n", b"A" * 70_000),
    *(b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"),
)
_PARTS: Final = rb"(?<=[\n,:\[{])"
"""Where a file is cut into lines, members and values."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name in a directory of files, and what reads it and returns the problems."""

    name: str
    file: str
    read: Callable[[Path], tuple[str, ...]]
    examples: int = 2000
    place: str = ""
    """A pattern for what a problem names, if that is not the file: a key of the configuration, an option, a line."""

    def is_named_in(self, problem: str) -> bool:
        """Whether a problem says where it is."""
        return Path(self.file).name in problem or bool(self.place and re.match(self.place, problem))


def make_files(directory: Path) -> Path:
    """Write a valid file of each kind, and the files that they name."""
    authority = certificates.create_authority("Example CA")
    certificate, key = certificates.issue(authority, "localhost", hosts=("localhost",))
    (directory / "credentials").mkdir(0o700)
    credential = save_credential(directory / "credentials", generate_credential(), datetime(2026, 1, 2, tzinfo=UTC))
    credential.rename(directory / "credentials" / "credential.toml")
    for name, content in {
        "xksproxy.toml": _CONFIG.encode(),
        "policy.cedar": _POLICY.encode(),
        "roots.pem": authority.certificate.public_bytes(Encoding.PEM),
        "server.pem": certificate + authority.certificate.public_bytes(Encoding.PEM),
        "server-key.pem": key,
        "client-ca.pem": certificates.create_authority("Clients").certificate.public_bytes(Encoding.PEM),
        "pin": b"1234\n",
        "module.so": b"",
        "settings.toml": SETTINGS.encode(),
    }.items():
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o600)
    return directory


def mutated(original: bytes, random: Random) -> bytes:
    """A file with other values, or with one to four damages of its bytes: changed, removed, inserted or moved."""
    if random.random() < 0.5:
        return other_values(original, random)
    content = original
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(content))
        end = random.randint(start, min(len(content), start + 40))
        match random.randrange(6):
            case 0:
                content = content[:start] + random.choice(_SNIPPETS) + content[end:]
            case 1:
                content = content[:start] + random.randbytes(random.randint(0, 6)) + content[start:]
            case 2:
                content = content[:start] + content[end:]
            case 3:
                content = content[:end] + content[start:]
            case 4:
                content = content[:start]
            case 5:
                parts = re.split(_PARTS, content)
                part = parts.pop(random.randrange(len(parts)))
                parts.insert(random.randint(0, len(parts)), part)
                content = b"".join(parts)
    return content


@contextmanager
def _refusals(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except (ConfigError, SettingsError) as error:
        problems += error.problems
    except SecretError as error:
        problems.append(str(error))


def _read_config(path: Path) -> tuple[str, ...]:
    problems: list[str] = []
    with _refusals(problems):
        config = load_config(path)
        problems += problems_of(path, config, "all")
        problems += [finding.text for finding in inspect_config(config) if finding.serious]
        if not problems:
            load_checked(path)
            problems += [finding.text for finding in verification_findings(config.server.tls) if finding.serious]
            assert all((*policy_warnings(config), *witness_warnings(config)))
    return tuple(problems)


def _read_credential(path: Path) -> tuple[str, ...]:
    problems: list[str] = []
    with _refusals(problems):
        read_credentials(path.parent)
    return tuple(problems)


def _read_policy(path: Path) -> tuple[str, ...]:
    problems: list[str] = []
    with _refusals(problems):
        load_policies([str(path)])
        config = load_config(path.with_name("xksproxy.toml"))
        assert all(policy_warnings(config))
    return tuple(problems)


def _read_tls(directory: Path, **names: Path) -> tuple[str, ...]:
    tls = Tls(certificate=str(directory / "server.pem"), private_key=str(directory / "server-key.pem"))
    tls = replace(
        tls, client_names=("kms",) if "client_ca" in names else (), **{name: str(path) for name, path in names.items()}
    )
    problems = list(certificate_problems(tls))
    findings = [*certificate_findings(tls, datetime.now(UTC)), *client_ca_findings(tls, datetime.now(UTC))]
    if not problems:
        with _refusals(problems):
            build_context(tls)
            certificate_info(tls)
            findings += verification_findings(tls)
    return tuple(problems + [finding.text for finding in findings if finding.serious])


def _read_pin(path: Path) -> tuple[str, ...]:
    problems: list[str] = []
    with _refusals(problems):
        read_secret(SecretReference(file=str(path)))
    return tuple(problems)


def _read_settings(path: Path) -> tuple[str, ...]:
    problems: list[str] = []
    with _refusals(problems):
        render_config(make_plan(read_settings(path), path.parent, None))
    return tuple(problems)


def _tls_kind(key: str, path: Path) -> tuple[str, ...]:
    return _read_tls(path.parent, **{key: path})


_FEW: Final = 200
"""Examples of a kind of which others of the same code have more."""

_CONFIGURATION_KEY: Final = (
    r"(server|hsm|keystore|admin|audit|state|health|logging|tracing)(\[\d+\])?(\.[a-z_]+(\[\d+\])?)*: "
)

KINDS: Final = (
    Kind("configuration", "xksproxy.toml", _read_config, place=_CONFIGURATION_KEY),
    Kind("credential", "credentials/credential.toml", _read_credential),
    Kind("policy", "policy.cedar", _read_policy),
    Kind("certificate", "server.pem", partial(_tls_kind, "certificate"), place=_CONFIGURATION_KEY),
    Kind("CA for clients", "client-ca.pem", partial(_tls_kind, "client_ca"), _FEW, _CONFIGURATION_KEY),
    Kind("private key", "server-key.pem", partial(_tls_kind, "private_key"), place=_CONFIGURATION_KEY),
    Kind("PIN", "pin", _read_pin),
    Kind("settings", "settings.toml", _read_settings),
)
"""The kinds of files."""
